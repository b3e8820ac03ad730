"""What it takes to have the textures of an epoch: measured again, from files, or from the cache.

    python examples/benchmarks/cache.py [--size 1024] [--images 48] [--workers 0 1 2]
                                        [--channels full] [--folder FOLDER] [--json FILE]

An epoch gives every image's textures once, through a DataLoader, in a random order. The peers are a
file an image by torch.save (read with weights_only) and one by pickle, both fp16; the limit is a
copy of the same bytes in memory. The peers take turns. Milliseconds are processor time of one
thread, the median and the half of all reads around it; rates are those of the best and the worst
round, by the clock. Files were just written, so that they come from the system's memory.
"""

from __future__ import annotations

import argparse
import json
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import machine, table
from rich.console import Console
from textures import drawn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_arrcoc.data.texture_cache import TextureCache, TextureWriter
from lightning_arrcoc.data.texture_entry import pack
from lightning_arrcoc.memory.malloc import keep_freed_memory
from lightning_arrcoc.relevance import TextureGenerator

TARGET = 0.01  # reading back, over measuring
DISTINCT = 4  # pictures; their order in memory does not matter, their bytes do


class Epoch(Dataset[Tensor]):
    """Textures by number, one way."""

    def __init__(self, get: Callable[[int], Tensor], images: int) -> None:
        self.get, self.images = get, images

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, number: int) -> Tensor:
        return self.get(number)


def key(number: int) -> bytes:
    return f"{number:064x}".encode()


def contestants(
    folder: Path, pictures: list[Tensor], texture: TextureGenerator, images: int
) -> tuple[dict[str, Callable[[int], Tensor]], dict[str, float]]:
    """How each gets the textures of an image, and the bytes an image that it keeps on disk."""

    def measured(number: int) -> Tensor:
        textures: Tensor = texture(pictures[number % DISTINCT])[0]
        return textures.half()

    known = [measured(number) for number in range(DISTINCT)]
    with TextureWriter(folder / "cache") as writer:
        for number in range(images):
            entry = known[number % DISTINCT]
            torch.save(entry.clone(), folder / f"{number}.pt")
            (folder / f"{number}.pkl").write_bytes(pickle.dumps(entry.numpy()))
            writer.put({key(number): pack(key(number), entry)})
    cache = TextureCache(folder / "cache")

    def cached(number: int) -> Tensor:
        found = cache.get(key(number))
        assert found is not None
        return found

    def unpickled(number: int) -> Tensor:
        content = (folder / f"{number}.pkl").read_bytes()
        return torch.from_numpy(pickle.loads(content))  # our own, written above

    def loaded(number: int) -> Tensor:
        found: Tensor = torch.load(folder / f"{number}.pt", weights_only=True)
        return found

    ways = {
        "measured again": measured,
        "torch.save, a file an image": loaded,
        "pickle, a file an image": unpickled,
        "the cache": cached,
        "copied in memory": lambda number: known[number % DISTINCT].clone(),
    }
    sizes = {
        "torch.save, a file an image": sum(f.stat().st_size for f in folder.glob("*.pt")),
        "pickle, a file an image": sum(f.stat().st_size for f in folder.glob("*.pkl")),
        "the cache": cache.bytes_on_disk(),
        "copied in memory": images * known[0].nbytes,
    }
    return ways, {name: size / images for name, size in sizes.items()}


def alone(
    ways: dict[str, Callable[[int], Tensor]], images: int, rounds: int
) -> dict[str, list[float]]:
    """Milliseconds an image without a loader, of processor time: neighbours do not count."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, get in ways.items():
            for number in range(images if name != "measured again" else min(images, 2 * DISTINCT)):
                start = time.process_time()
                get(number)
                found[name].append(1e3 * (time.process_time() - start))
    return found


def epochs(
    ways: dict[str, Callable[[int], Tensor]], images: int, workers: list[int], rounds: int
) -> dict[str, dict[int, list[float]]]:
    """Samples a second of each way and number of workers; the start of workers is left out."""
    found: dict[str, dict[int, list[float]]] = {name: {n: [] for n in workers} for name in ways}
    for count in workers:
        loaders = {
            name: DataLoader(
                Epoch(get, images), batch_size=8, shuffle=True, num_workers=count,
                persistent_workers=count > 0,
            )
            for name, get in ways.items()
        }  # fmt: skip
        for turn in range(1 + rounds):
            for name, loader in loaders.items():
                start = time.perf_counter()
                seen = sum(len(batch) for batch in loader)
                if turn:
                    found[name][count].append(seen / (time.perf_counter() - start))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024, help="pixels along either side")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--channels", default="full", choices=["core", "full"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    asked = parser.parse_args()

    torch.set_num_threads(1)
    keep_freed_memory()  # as the trainer does
    pictures = [drawn(asked.size).roll(n, -1) for n in range(DISTINCT)]
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        texture = TextureGenerator(asked.channels)
        ways, sizes = contestants(Path(folder), pictures, texture, asked.images)
        each_ms = alone(ways, asked.images, asked.rounds)
        rates = epochs(ways, asked.images, asked.workers, asked.rounds)
    medians = {name: statistics.median(times) for name, times in each_ms.items()}
    share = medians["the cache"] / medians["measured again"]
    rows: dict[str, dict[str, Any]] = {
        name: {
            "bytes_an_image": sizes.get(name),
            "ms": medians[name],
            "ms_quartiles": statistics.quantiles(each_ms[name])[::2],
            "of_measuring": medians[name] / medians["measured again"],
            "samples_a_second": rates[name],
        }
        for name in ways
    }
    header = ["textures", "bytes an image", "ms", "half of them", "of measuring"]
    header += [f"per s, {count} workers (worst)" for count in asked.workers]
    cells = {
        name: [
            f"{row['bytes_an_image']:,.0f}" if row["bytes_an_image"] else "",
            f"{row['ms']:.3f}",
            "{:.3f} to {:.3f}".format(*row["ms_quartiles"]),
            f"{row['of_measuring']:.3%}",
            *(f"{max(r):,.0f} ({min(r):,.0f})" for r in row["samples_a_second"].values()),
        ]
        for name, row in rows.items()
    }
    print(", ".join(machine().values()))
    title = f"{asked.images} images of {asked.size} px, {texture.out_channels} channels"
    Console(width=160).print(table(title, header, cells))
    reached = "reached" if share <= TARGET else "missed"
    print(f"reading back takes {share:.3%} of measuring; target: {TARGET:.0%}, {reached}")
    if asked.json:
        report = {"machine": machine(), "size": asked.size, "images": asked.images, "rows": rows}
        report |= {"channels": texture.out_channels, "share": share, "target": TARGET}
        asked.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
