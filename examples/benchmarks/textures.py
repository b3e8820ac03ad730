"""How long textures take, by group and in all, on one thread of a CPU.

    python examples/benchmarks/textures.py [--size 1024] [--repeats 9] [--json FILE]

A group's time includes the views of the picture (luma, Lab, Sobel) that it is the first to ask
for. `core` and `full` take turns, so that a machine that slows down slows both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from measuring import machine
from torch import Tensor

from lightning_arrcoc.memory.malloc import keep_freed_memory
from lightning_arrcoc.relevance.textures import CELL_PX, TextureGenerator
from lightning_arrcoc.relevance.textures.generator import MEASURES
from lightning_arrcoc.relevance.textures.picture import Picture
from lightning_arrcoc.relevance.textures.place import Previous, remembered

TARGET_MS = 100.0  # of `full`, one image of 1024 px
WARM_UPS = 2


def drawn(size: int) -> Tensor:
    """A picture with soft areas, text-like strokes and noise, the same in every run."""
    random = torch.Generator().manual_seed(0)
    soft = torch.rand(1, 3, size // CELL_PX, size // CELL_PX, generator=random)
    image = torch.nn.functional.interpolate(soft, size=(size, size), mode="bicubic")
    image += 0.05 * torch.randn(1, 3, size, size, generator=random)
    image[..., size // 2 :: 9, : size // 2] = 0
    return image.clamp(0, 1)


def timed(repeats: int, image: Tensor) -> dict[str, dict[str, list[float]]]:
    """Table -> group or total -> milliseconds of each repeat."""
    textures = {name: TextureGenerator(name) for name in ("core", "full")}
    found: dict[str, dict[str, list[float]]] = {name: {} for name in textures}
    for turn in range(WARM_UPS + repeats):
        for name, texture in textures.items():
            times = by_group(texture, image)
            start = time.perf_counter()
            texture(image)
            times["total"] = time.perf_counter() - start
            if turn >= WARM_UPS:
                for group, seconds in times.items():
                    found[name].setdefault(group, []).append(1e3 * seconds)
    return found


@torch.no_grad()
def by_group(texture: TextureGenerator, image: Tensor) -> dict[str, float]:
    """Seconds of each group, in the order in which the generator measures them."""
    picture, times = Picture(image), {}
    for group in dict.fromkeys(channel.group for channel in texture.channels):
        start = time.perf_counter()
        if group == "previous":
            remembered(picture, Previous())
        else:
            MEASURES[group](picture)
        times[group] = time.perf_counter() - start
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024, help="pixels along either side")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    asked = parser.parse_args()
    if asked.size < CELL_PX or asked.size % CELL_PX or asked.repeats < 1:
        parser.error(f"--size is a multiple of {CELL_PX}, --repeats at least 1")

    torch.set_num_threads(1)
    keep_freed_memory()  # as the trainer does
    found = timed(asked.repeats, drawn(asked.size))
    summary = {
        table: {
            group: {"median_ms": statistics.median(ms), "min_ms": min(ms), "max_ms": max(ms)}
            for group, ms in groups.items()
        }
        for table, groups in found.items()
    }
    print(", ".join(machine().values()))
    print(f"{asked.size} x {asked.size} px, one thread, {asked.repeats} repeats")
    print(f"{'':16}{'median':>10}{'least':>10}{'most':>10}  ms")
    for table, groups in summary.items():
        for group, row in groups.items():
            label = table if group == "total" else f"  {group}"
            numbers = "".join(f"{row[key]:10.2f}" for key in ("median_ms", "min_ms", "max_ms"))
            print(f"{label:16}{numbers}")
    target = TARGET_MS * (asked.size / 1024) ** 2
    reached = summary["full"]["total"]["median_ms"] <= target
    print(f"target of full: {target:.0f} ms, {'reached' if reached else 'missed'}")
    if asked.json:
        report = {
            "machine": machine(),
            "size": asked.size,
            "repeats": asked.repeats,
            "target_ms": target,
            "reached": reached,
            "textures": summary,
        }
        asked.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
