"""What a teacher costs a training step, and what remembering its answers saves.

    python examples/benchmarks/teacher.py [--canvases 8] [--turns 8] [--repeats 5] [--json FILE]

Times a step of `HardChoice` (forward and backward) on packed canvases of digits without a teacher,
with one that sees every sample for the first time, and with one that knows them all; and the two
alone. The three take turns. Processor time of one thread, so that neighbours do not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lightning_arrcoc import ArrCocModule, ArrCocQwen3VL
from lightning_arrcoc.data.collate import Collator
from lightning_arrcoc.data.digits import DigitQuestions
from lightning_arrcoc.memory.malloc import keep_freed_memory
from lightning_arrcoc.objectives import HardChoice, Teacher

BUDGET = (0.1, 0.1)
WARM_UPS = 1


def contestants(model: ArrCocQwen3VL, inputs: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    known = Teacher()
    known(model, inputs)

    def step(teacher: Teacher | None) -> None:
        weight = 0.0 if teacher is None else 0.5
        lesson = HardChoice(BUDGET, teacher_weight=weight, teacher=teacher)(model, inputs, 0.0)
        lesson.loss.backward()  # type: ignore[no-untyped-call]
        model.zero_grad()

    return {
        "step without a teacher": lambda: step(None),
        "step, samples new to the teacher": lambda: step(Teacher()),
        "step, samples known to the teacher": lambda: step(known),
        "teacher alone, new": lambda: Teacher()(model, inputs),
        "teacher alone, known": lambda: known(model, inputs),
    }


def timed(timers: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds of processor time."""
    found: dict[str, list[float]] = {name: [] for name in timers}
    for turn in range(WARM_UPS + repeats):
        for name, run in timers.items():
            start = time.process_time()
            run()
            if turn >= WARM_UPS:
                found[name].append(1e3 * (time.process_time() - start))
    return {name: statistics.median(ms) for name, ms in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--canvases", type=int, default=8, help="in a batch")
    parser.add_argument("--turns", type=int, default=8, help="questions about each")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    asked = parser.parse_args()
    if min(asked.canvases, asked.turns, asked.repeats) < 1:
        parser.error("--canvases, --turns and --repeats are at least 1")

    torch.set_num_threads(1)
    keep_freed_memory()  # as the trainer does
    torch.manual_seed(0)
    model = ArrCocQwen3VL.from_pretrained("tiny", dtype="float32")
    ArrCocModule(model)  # freezes what is not trained
    source = DigitQuestions("train", asked.canvases, turns=asked.turns)
    collate = Collator(model.processor, for_measuring=False, pack=True)
    inputs = collate([source[i] for i in range(asked.canvases)])["inputs"]
    found = timed(contestants(model, inputs), asked.repeats)

    print(f"{asked.canvases} canvases, {asked.turns} questions each, {asked.repeats} repeats")
    for name, ms in found.items():
        print(f"{name:36}{ms:10.1f} ms")
    if asked.json:
        report = {"batch": [asked.canvases, asked.turns], "median_ms": found}
        asked.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
