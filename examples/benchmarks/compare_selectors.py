"""Who answers how often right with equally many visual tokens, and how long a question takes.

``python examples/benchmarks/compare_selectors.py --held-out --json selectors.json``

Trains ARR-COC once for each seed by ``fit`` (or takes ``--checkpoints``), then puts the same
questions to every selector: one batch after the other, the selectors in turn within a batch.
Prints one table a budget: exact match by family of questions, in per cent, mean over seeds and half
the range between them, and milliseconds a question on one thread. ARR-COC and random cells change
with the seed, the others do not. VisionZip- and FastV-like choose after the vision tower, as their
papers do, all others before it. ``--held-out`` asks about canvases of other sizes, shapes and
crowds than training showed as well.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch
from measuring import (
    ALL_READ_OFF,
    COLUMNS,
    FULL,
    Canvas,
    Contestant,
    Inputs,
    Spread,
    figures,
    full,
    generate,
    in_words,
    load,
    machine,
    measure,
    spread,
    table,
    train,
    with_selector,
)
from rich.console import Console

from lightning_arrcoc import ArrCocQwen3VL
from lightning_arrcoc.data.sample import Sample
from lightning_arrcoc.relevance import CELL_PX
from lightning_arrcoc.relevance.baselines import (
    DivPruneLike,
    EdgeSaliency,
    Everything,
    Given,
    PixelPruneLike,
    RandomCells,
    UniformGrid,
    oracle_map,
)
from lightning_arrcoc.vlm.attention_baselines import fastv_maps, visionzip_maps
from lightning_arrcoc.vlm.downsampling import downsample

ARR_COC, ORACLE = "ARR-COC", "oracle"
# Never shown in training: larger, of another shape, more crowded.
HELD_OUT = (Canvas(512, 512, 8), Canvas(480, 160, 8), Canvas(384, 384, 12))


def smaller(
    model: ArrCocQwen3VL, prompts: Inputs, samples: list[Sample], budget: float
) -> list[str]:
    return generate(model, downsample(prompts, budget, model), 1.0, Everything())


def oracle(
    model: ArrCocQwen3VL, prompts: Inputs, samples: list[Sample], budget: float
) -> list[str]:
    given = Given()
    maps = []
    for sample in samples:
        width, height = sample.images[0].size
        boxes = [tuple(side / CELL_PX for side in box) for box in sample.evidence]
        maps.append(oracle_map(boxes, height // CELL_PX, width // CELL_PX))  # type: ignore[arg-type]
    given.maps = torch.stack(maps)
    return generate(model, prompts, budget, given)


def visionzip(
    model: ArrCocQwen3VL, prompts: Inputs, samples: list[Sample], budget: float
) -> list[str]:
    maps = visionzip_maps(model.backbone, prompts["pixel_values"], prompts["image_grid_thw"])
    return after_vision(model, prompts, maps, budget)


def fastv(model: ArrCocQwen3VL, prompts: Inputs, samples: list[Sample], budget: float) -> list[str]:
    names = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")
    return after_vision(
        model, prompts, fastv_maps(model.backbone, *(prompts[name] for name in names)), budget
    )


def after_vision(
    model: ArrCocQwen3VL, prompts: Inputs, maps: list[torch.Tensor], budget: float
) -> list[str]:
    given = Given()
    given.maps = torch.stack(maps)
    chosen, model.select = model.select, "after_vision"
    try:
        return generate(model, prompts, budget, given)
    finally:
        model.select = chosen


def contestants(seed: int, first: bool) -> dict[str, Contestant]:
    """All of them; behind the first seed those only that change with it."""
    seeded: dict[str, Contestant] = {
        ARR_COC: with_selector(None),
        "random": with_selector(RandomCells(seed)),
    }
    if not first:
        return seeded
    return seeded | {
        "grid": with_selector(UniformGrid()),
        "downsampled": smaller,
        "edges": with_selector(EdgeSaliency()),
        "PixelPrune-like": with_selector(PixelPruneLike()),
        "DivPrune-like": with_selector(DivPruneLike()),
        "VisionZip-like": visionzip,
        "FastV-like": fastv,
        ORACLE: oracle,
    }


def trained(arguments: argparse.Namespace) -> Iterator[tuple[int, Path]]:
    """A checkpoint a seed."""
    if arguments.checkpoints:
        yield from enumerate(Path(path).absolute() for path in arguments.checkpoints)
        return
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.seeds):
            yield seed, train(Path(folder) / str(seed), seed, arguments.overrides)


def written(row: Spread, whole: Spread) -> list[str]:
    """The cells of a table's row."""
    share = row[ALL_READ_OFF]["mean"] / whole[ALL_READ_OFF]["mean"]
    columns = (*COLUMNS, "ms")
    return [*(in_words(row[key]) if key in row else "" for key in columns), f"{share:.1%}"]


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="of fit, such as trainer.max_steps=100")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--checkpoints", nargs="+", help="instead of training")
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.25, 0.1, 0.05])
    parser.add_argument("--canvas", type=int, nargs=2, default=[384, 384], help="width, height")
    parser.add_argument("--digits", type=int, default=8)
    parser.add_argument("--held-out", action="store_true", help="other canvases as well")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    torch.set_num_threads(1)
    budgets, count = arguments.budgets, arguments.questions
    usual = Canvas(*arguments.canvas, arguments.digits)
    samples = {canvas: canvas.samples(count) for canvas in (usual, *HELD_OUT * arguments.held_out)}
    by_run: dict[tuple[Canvas, str, float], list[dict[str, float]]] = defaultdict(list)
    seeds = 0
    for seed, checkpoint in trained(arguments):
        model, rivals = load(checkpoint), contestants(seed, first=not seeds)
        players = [] if seeds else [(FULL, 1.0, full)]
        players += [(name, budget, play) for budget in budgets for name, play in rivals.items()]
        for canvas, asked in samples.items():
            for (name, budget), run in measure(model, asked, arguments.batch, players).items():
                by_run[canvas, name, budget].append(figures(run))
        seeds += 1
    results = {key: spread(runs) for key, runs in by_run.items()}
    console = Console(width=120)
    console.print(f"{count} test canvases of each kind, {seeds} seeds; {machine()}")
    for canvas in samples:
        whole = results[canvas, FULL, 1.0]
        for budget in budgets:
            here = {
                name: row for (c, name, b), row in results.items() if (c, b) == (canvas, budget)
            }
            title = f"{canvas}: {budget:.0%} of the tokens"
            cells = {name: written(row, whole) for name, row in ({FULL: whole} | here).items()}
            console.print(table(title, ("selector", *COLUMNS, "ms", "of full"), cells))
    if arguments.json:
        report = {
            "machine": machine(), "questions": count, "seeds": seeds,
            "overrides": arguments.overrides,
            "results": [
                {
                    "selector": name, "budget": budget,
                    "canvas": canvas[:2], "digits": canvas.digits, **row,
                }
                for (canvas, name, budget), row in results.items()
            ],
        }  # fmt: skip
        arguments.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
