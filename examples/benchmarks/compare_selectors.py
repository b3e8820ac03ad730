"""Who answers how often right with equally many visual tokens, and how long a question takes.

``python examples/benchmarks/compare_selectors.py --json selectors.json``

Trains ARR-COC once for each seed by ``fit`` (or takes ``--checkpoints``), then puts the same
questions to every selector: one batch after the other, the selectors in turn within a batch.
Prints one table a budget: exact match by family of questions, in per cent, mean over seeds and half
the range between them, and milliseconds a question on one thread. ARR-COC and random cells change
with the seed, the others do not. VisionZip- and FastV-like choose after the vision tower, as their
papers do, all others before it.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from lightning_arrcoc import ArrCocModule, ArrCocQwen3VL
from lightning_arrcoc.contest import decode_answers, exact_matches
from lightning_arrcoc.data.collate import Collator
from lightning_arrcoc.data.digits import DigitQuestions
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

FULL, ARR_COC, ORACLE = "full", "ARR-COC", "oracle"
READ_OFF = ("colour", "place", "comparison")  # counting needs every digit and is told apart
Inputs = dict[str, Any]
Contestant = Callable[[ArrCocQwen3VL, Inputs, list[Sample], float], list[str]]


def with_selector(selector: Any) -> Contestant:
    def answer(
        model: ArrCocQwen3VL, prompts: Inputs, samples: list[Sample], budget: float
    ) -> list[str]:
        return generate(model, prompts, budget, selector)

    return answer


def full(model: ArrCocQwen3VL, prompts: Inputs, samples: list[Sample], budget: float) -> list[str]:
    return generate(model, prompts, 1.0, Everything())


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


def generate(
    model: ArrCocQwen3VL, prompts: Inputs, budget: float, selector: Any = None
) -> list[str]:
    output = model.generate(
        **prompts, budget=budget, selector=selector, max_new_tokens=8, do_sample=False
    )
    return decode_answers(model, output, prompts)


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
            run = Path(folder) / str(seed)
            subprocess.run(
                [
                    sys.executable, "-m", "lightning_arrcoc", "fit", f"seed={seed}",
                    f"hydra.run.dir={run}", "picture_samples=0", "data.test=null", "logger=csv",
                    *arguments.overrides,
                ],
                check=True,
            )  # fmt: skip
            yield seed, run / "checkpoints" / "last.ckpt"


def load(checkpoint: Path) -> ArrCocQwen3VL:
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    module = ArrCocModule(ArrCocQwen3VL.from_pretrained("tiny", dtype="float32"))
    module.on_load_checkpoint(saved)
    module.load_state_dict(saved["state_dict"])
    return module.model.eval()


def measure(
    model: ArrCocQwen3VL,
    samples: list[Sample],
    budgets: list[float],
    batch: int,
    players: dict[str, Contestant],
) -> dict[tuple[str, float], dict[str, list[float]]]:
    """For each contestant and budget: right answers by family, and seconds a question."""
    assert model.processor is not None
    collate = Collator(model.processor, for_measuring=True)
    found: dict[tuple[str, float], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    runs = [(FULL, 1.0, full)]
    runs += [(name, budget, play) for budget in budgets for name, play in players.items()]
    for start in range(0, len(samples), batch):
        asked = samples[start : start + batch]
        encoded = collate(asked)
        for name, budget, play in runs:
            began = time.perf_counter()
            answers = play(model, encoded["prompts"], asked, budget)
            seconds = (time.perf_counter() - began) / len(asked)
            rights = exact_matches(answers, encoded["answers"])
            for sample, right in zip(asked, rights, strict=True):
                found[name, budget][sample.family].append(right)
            found[name, budget]["seconds"].append(seconds)
    return found


def summary(runs: list[dict[str, list[float]]]) -> dict[str, Any]:
    """Over seeds: per cent by family, and milliseconds."""
    rows: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        for family in (*READ_OFF, "count"):
            if run[family]:
                rows[family].append(100 * statistics.fmean(run[family]))
        rows["read off"].append(
            100 * statistics.fmean([right for family in READ_OFF for right in run[family]])
        )
        rows["ms"].append(1000 * statistics.median(run["seconds"]))
    return {
        key: {"mean": statistics.fmean(values), "half_range": (max(values) - min(values)) / 2}
        for key, values in rows.items()
    }


def table(title: str, rows: dict[str, dict[str, Any]], whole: dict[str, Any]) -> Table:
    made = Table(title=title, title_justify="left")
    columns = [*READ_OFF, "read off", "count", "ms"]
    for name in ("selector", *columns, "of full"):
        made.add_column(name, justify="left" if name == "selector" else "right")
    for name, row in rows.items():
        cells = [
            f"{row[key]['mean']:.1f} ± {row[key]['half_range']:.1f}" if key in row else ""
            for key in columns
        ]
        share = row["read off"]["mean"] / whole["read off"]["mean"]
        made.add_row(name, *cells, f"{share:.1%}")
    return made


def machine() -> dict[str, str]:
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in (
                Path("/proc/cpuinfo").read_text().splitlines()
                if Path("/proc/cpuinfo").exists()
                else []
            )
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {"cpu": cpu, "system": platform.platform(), "torch": torch.__version__}


def main() -> None:
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
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=120)
    questions = DigitQuestions(
        "test", arguments.questions, canvas_px=tuple(arguments.canvas), digits=arguments.digits
    )
    samples = [questions[i] for i in range(len(questions))]
    by_run: dict[tuple[str, float], list[dict[str, list[float]]]] = defaultdict(list)
    for seed, checkpoint in trained(arguments):
        players = contestants(seed, first=not by_run)
        found = measure(load(checkpoint), samples, arguments.budgets, arguments.batch, players)
        for key, run in found.items():
            by_run[key].append(run)
    results = {key: summary(runs) for key, runs in by_run.items()}
    seeds = len(by_run[FULL, 1.0])
    console.print(f"{len(samples)} test canvases of {arguments.canvas}, {seeds} seeds; {machine()}")
    whole = results[FULL, 1.0]
    for budget in arguments.budgets:
        rows = {FULL: whole} | {name: row for (name, b), row in results.items() if b == budget}
        console.print(table(f"{budget:.0%} of the tokens", rows, whole))
    if arguments.json:
        report = {
            "machine": machine(), "questions": len(samples), "canvas": arguments.canvas,
            "digits": arguments.digits, "seeds": seeds, "overrides": arguments.overrides,
            "results": [
                {"selector": name, "budget": budget, **row}
                for (name, budget), row in results.items()
            ],
        }  # fmt: skip
        arguments.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
