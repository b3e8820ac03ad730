"""What the benchmarks of accuracy share: training by fit, asking, and making figures of answers."""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf
from rich.table import Table

from lightning_arrcoc import ArrCocModule, ArrCocQwen3VL
from lightning_arrcoc.contest import decode_answers, exact_matches
from lightning_arrcoc.data.collate import Collator
from lightning_arrcoc.data.digits import DigitQuestions
from lightning_arrcoc.data.sample import Sample
from lightning_arrcoc.relevance.baselines import Everything
from lightning_arrcoc.targets import build

FULL = "full"
READ_OFF = ("colour", "place", "comparison")  # counting needs every digit and is told apart
ALL_READ_OFF = "read off"
COLUMNS = (*READ_OFF, ALL_READ_OFF, "count")
Inputs = dict[str, Any]
Contestant = Callable[[ArrCocQwen3VL, Inputs, list[Sample], float], list[str]]
Run = dict[str, list[float]]  # right answers by family, and seconds a question
Spread = dict[str, dict[str, float]]  # mean and half the range of each column


class Canvas(NamedTuple):
    """Test canvases of one kind: pixels, and digits on each."""

    width: int
    height: int
    digits: int

    def samples(self, count: int) -> list[Sample]:
        """The first of the held-out ones; with the same arguments always the same."""
        size = (self.width, self.height)
        questions = DigitQuestions("test", count, canvas_px=size, digits=self.digits)
        return [questions[i] for i in range(count)]

    def __str__(self) -> str:
        return f"{self.width} x {self.height} px with {self.digits} digits"


# ------------------------------------------------------------------------------------- training


def train(run: Path, seed: int, overrides: Sequence[str]) -> Path:
    """The last checkpoint of a run of fit; one that lies there already is taken as it is.

    Raises:
        SystemExit: it was trained with other overrides.
    """
    words = [f"seed={seed}", "picture_samples=0", "data.test=null", "logger=csv", *overrides]
    checkpoint = run / "checkpoints" / "last.ckpt"
    if not checkpoint.exists():
        command = [sys.executable, "-m", "lightning_arrcoc", "fit", f"hydra.run.dir={run}", *words]
        subprocess.run(command, check=True)
    recorded = [str(word).lstrip("+") for word in OmegaConf.load(run / ".hydra/overrides.yaml")]
    if recorded != words:
        raise SystemExit(
            f"{run} was trained with {recorded}; expected {words}. Name another folder, or remove "
            "that one."
        )
    return checkpoint


def load(checkpoint: Path) -> ArrCocQwen3VL:
    """The model as fit composed it and left a record beside the checkpoint; else the default."""
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    record = checkpoint.parents[1] / ".hydra" / "config.yaml"
    module = ArrCocModule(
        build(OmegaConf.load(record).model)
        if record.exists()
        else ArrCocQwen3VL.from_pretrained("tiny", dtype="float32")
    )
    module.on_load_checkpoint(saved)
    module.load_state_dict(saved["state_dict"])
    return module.model.eval()


# --------------------------------------------------------------------------------------- asking


def generate(
    model: ArrCocQwen3VL, prompts: Inputs, budget: float, selector: Any = None
) -> list[str]:
    output = model.generate(
        **prompts, budget=budget, selector=selector, max_new_tokens=8, do_sample=False
    )
    return decode_answers(model, output, prompts)


def with_selector(selector: Any) -> Contestant:
    """One who answers from what a selector keeps; None is ARR-COC."""

    def answer(
        model: ArrCocQwen3VL, prompts: Inputs, samples: list[Sample], budget: float
    ) -> list[str]:
        return generate(model, prompts, budget, selector)

    return answer


def full(model: ArrCocQwen3VL, prompts: Inputs, samples: list[Sample], budget: float) -> list[str]:
    return generate(model, prompts, 1.0, Everything())


def measure(
    model: ArrCocQwen3VL,
    samples: list[Sample],
    batch: int,
    players: Sequence[tuple[str, float, Contestant]],
) -> dict[tuple[str, float], Run]:
    """Put all questions to each player at its budget, in turns within a batch."""
    assert model.processor is not None
    collate = Collator(model.processor, for_measuring=True)
    found: dict[tuple[str, float], Run] = defaultdict(lambda: defaultdict(list))
    for start in range(0, len(samples), batch):
        asked = samples[start : start + batch]
        encoded = collate(asked)
        for name, budget, play in players:
            began = time.perf_counter()
            answers = play(model, encoded["prompts"], asked, budget)
            seconds = (time.perf_counter() - began) / len(asked)
            rights = exact_matches(answers, encoded["accepted"])
            for sample, right in zip(asked, rights, strict=True):
                found[name, budget][sample.family].append(right)
            found[name, budget]["seconds"].append(seconds)
    return found


# -------------------------------------------------------------------------------------- figures


def figures(run: Run) -> dict[str, float]:
    """Of one run: per cent by family and over those that can be read off, and milliseconds."""
    of_families = {
        family: 100 * statistics.fmean(run[family])
        for family in (*READ_OFF, "count")
        if run[family]
    }
    read_off = [right for family in READ_OFF for right in run[family]]
    return of_families | {
        ALL_READ_OFF: 100 * statistics.fmean(read_off),
        "ms": 1000 * statistics.median(run["seconds"]),
    }


def spread(runs: Sequence[Mapping[str, float]]) -> Spread:
    """Mean and half the range over runs, column by column."""
    columns = {key: [run[key] for run in runs] for key in runs[0]}
    return {
        key: {"mean": statistics.fmean(values), "half_range": (max(values) - min(values)) / 2}
        for key, values in columns.items()
    }


def in_words(value: Mapping[str, float], sign: str = "") -> str:
    return f"{value['mean']:{sign}.1f} ± {value['half_range']:.1f}"


def table(title: str, header: Sequence[str], rows: Mapping[str, Sequence[str]]) -> Table:
    """A row for each name; `header` names the first column and the others."""
    made = Table(title=title, title_justify="left")
    for place, name in enumerate(header):
        made.add_column(name, justify="right" if place else "left")
    for name, cells in rows.items():
        made.add_row(name, *cells)
    return made


def machine() -> dict[str, str]:
    info = Path("/proc/cpuinfo")
    models = [
        line.partition(":")[2].strip()
        for line in (info.read_text().splitlines() if info.exists() else [])
        if line.startswith("model name")
    ]
    cpu = models[0] if models else platform.processor()
    return {
        "cpu": cpu,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
