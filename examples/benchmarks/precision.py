"""What bf16 does to textures, channel by channel, and to every module of ARR-COC.

    python examples/benchmarks/precision.py [--checkpoint FILE] [--size 512] [--canvases 4]
        [--rows 12] [--json FILE]

Textures are measured in five ways, and compared with those in fp32:

* bf16: pixels and everything made of them in bf16;
* autocast: fp32 pixels under autocast to bf16, which the generator turns off for itself;
* bf16-mixed: the generator as it is, under autocast;
* bf16-true: the generator as it is, in a run with bf16-true: pixels are rounded, and tensors that
  it makes are bf16;
* kept: the same as an island of `SelectivePrecision`: pixels are rounded, and nothing else.

Numbers are norms of the differences by norms of the fp32 channel. Modules are probed on held-out
canvases by `probe_precision`.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from measuring import load, machine
from textures import drawn
from torch import Tensor

from lightning_arrcoc import ArrCocQwen3VL
from lightning_arrcoc.data.collate import Collator
from lightning_arrcoc.data.digits import DigitQuestions
from lightning_arrcoc.plugins import probe_precision
from lightning_arrcoc.plugins.precision_report import PrecisionReport, difference
from lightning_arrcoc.relevance.textures import TextureGenerator
from lightning_arrcoc.relevance.textures.generator import FIRST_TURN, MEASURES
from lightning_arrcoc.relevance.textures.picture import Picture
from lightning_arrcoc.relevance.textures.place import remembered

BF16 = torch.bfloat16
TOLERANCE = 0.01  # as probe_precision has it
Channels = dict[str, float | str]  # name -> relative difference, or why there is none


@contextmanager
def default_of(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def measured(image: Tensor, group: str) -> dict[str, Tensor]:
    """One group of channels, with nothing that would keep it in fp32."""
    picture = Picture(image)
    return remembered(picture, FIRST_TURN) if group == "previous" else MEASURES[group](picture)


def compared(exact: dict[str, Tensor], make: Callable[[str], dict[str, Tensor]]) -> Channels:
    """Each channel of a way to measure against fp32, group by group: one may not run."""
    groups: dict[str, list[str]] = {}
    for channel in TextureGenerator("full").channels:
        groups.setdefault(channel.group, []).append(channel.name)
    found: Channels = {}
    for group, names in groups.items():
        try:
            made = make(group)
        except (RuntimeError, IndexError) as error:
            found |= dict.fromkeys(names, str(error).splitlines()[0])
        else:
            found |= {name: difference(exact[name], made[name]).relative for name in names}
    return found


def textures(image: Tensor) -> dict[str, Channels]:
    """Way to measure -> channels."""
    generator = TextureGenerator("full")
    names = [channel.name for channel in generator.channels]

    def shipped(pixels: Tensor) -> dict[str, Tensor]:
        return dict(zip(names, generator(pixels).unbind(1), strict=True))

    exact = shipped(image)
    with default_of(BF16):
        found = {"bf16": compared(exact, lambda group: measured(image.to(BF16), group))}
    with torch.autocast("cpu", dtype=BF16):
        found["autocast"] = compared(exact, lambda group: measured(image, group))
        found["bf16-mixed"] = compared(exact, lambda group: shipped(image))
    with default_of(BF16):
        found["bf16-true"] = compared(exact, lambda group: shipped(image.to(BF16)))
    found["kept"] = compared(exact, lambda group: shipped(image.to(BF16)))
    return found


def probed(model: ArrCocQwen3VL, canvases: int) -> PrecisionReport:
    questions = DigitQuestions("val", canvases, canvas_px=(384, 384), digits=8)
    assert model.processor is not None
    batch = Collator(model.processor, for_measuring=False)([questions[i] for i in range(canvases)])
    return probe_precision(model, **batch["inputs"], use_cache=False, tolerance=TOLERANCE)


def in_words(value: float | str) -> str:
    return "fails" if isinstance(value, str) else f"{value:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="made by fit; without it ARR-COC is fresh")
    parser.add_argument("--size", type=int, default=512, help="pixels of the picture's sides")
    parser.add_argument("--canvases", type=int, default=4)
    parser.add_argument("--rows", type=int, default=12, help="modules to print, worst first")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    asked = parser.parse_args()

    torch.set_num_threads(1)
    with torch.no_grad():
        found = textures(drawn(asked.size))
    print(", ".join(machine().values()))
    print(f"{'channel':20}" + "".join(f"{way:>11}" for way in found))
    for name in found["kept"]:
        print(f"{name:20}" + "".join(f"{in_words(found[way][name]):>11}" for way in found))
    for way, channels in found.items():
        far = [name for name, value in channels.items() if not _is_near(value)]
        print(f"{way}: {len(far)} of {len(channels)} channels fail or are more than 1% off")
    model = load(asked.checkpoint) if asked.checkpoint else ArrCocQwen3VL.from_pretrained("tiny")
    report = probed(model, asked.canvases)
    lines = str(report).splitlines()
    print("\n".join([*lines[: asked.rows + 1], *lines[-2:]]))
    if asked.json:
        rows = {row.module: row.lowered.relative for row in report.modules}
        record = {
            "machine": machine(),
            "textures": found,
            "modules": {
                name: value if math.isfinite(value) else None for name, value in rows.items()
            },
            "keep_fp32": report.keep_fp32,
        }
        asked.json.write_text(json.dumps(record, indent=2) + "\n")


def _is_near(value: float | str) -> bool:
    return not isinstance(value, str) and value <= TOLERANCE


if __name__ == "__main__":
    main()
