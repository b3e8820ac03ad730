"""What a change of numbers costs and keeps: right answers, time and bytes, before and after."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from lightning_arrcoc.contest import decode_answers, exact_matches
from lightning_arrcoc.data.collate import Batch, Collator
from lightning_arrcoc.data.sample import Sample
from lightning_arrcoc.vlm import ArrCocQwen3VL

# Chosen by us: what a hundred questions and a busy machine can tell apart from chance.
LOST, FASTER, SLOWER, SMALLER = 0.02, 0.95, 1.05, 0.9
ROUNDS = 15


class Measured(NamedTuple):
    """One variant.

    Attributes:
        accuracy: share of right answers, 0 to 1.
        ms: median time of a call of what was changed.
        size: bytes of what was changed.
    """

    name: str
    accuracy: float
    ms: float
    size: int

    def judged(self, before: Measured) -> str:
        """Whether it helps, plainly, and why."""
        time_share, size_share = self.ms / before.ms, self.size / before.size
        faster, smaller = time_share < FASTER, size_share < SMALLER
        if before.accuracy - self.accuracy > LOST or not (faster or smaller):
            verdict = "DOES NOT HELP"
        elif time_share > SLOWER:
            verdict = "smaller, but SLOWER"
        else:
            verdict = "helps"
        return (
            f"{self.name}: {verdict} ({time_share:.2f} x the time, {size_share:.2f} x the bytes, "
            f"accuracy {100 * before.accuracy:.1f} -> {100 * self.accuracy:.1f} %)"
        )


def encoded(
    model: ArrCocQwen3VL, source: Sequence[Sample], samples: int, batch_size: int
) -> list[Batch]:
    """The first samples of a source, as prompts to answer."""
    assert model.processor is not None
    collate = Collator(model.processor, for_measuring=True)
    chosen = [source[place] for place in range(min(samples, len(source)))]
    return [
        collate(chosen[start : start + batch_size]) for start in range(0, len(chosen), batch_size)
    ]


@torch.no_grad()
def accuracy(
    model: ArrCocQwen3VL, batches: Sequence[Batch], max_new_tokens: int, selector: Any = None
) -> float:
    """Share of right answers at the model's own budget, by greedy generation."""
    right: list[float] = []
    for batch in batches:
        output = model.generate(
            **batch["prompts"], max_new_tokens=max_new_tokens, do_sample=False, selector=selector
        )
        answers = decode_answers(model, output, batch["prompts"])
        right += exact_matches(answers, batch["accepted"])
    return statistics.fmean(right)


@torch.no_grad()
def in_turn_ms(calls: Sequence[Callable[[], object]], rounds: int = ROUNDS) -> list[float]:
    """Median milliseconds of each call; they take turns, so that a busy moment meets all."""
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:  # warm-up, and compilation where there is any
        call()
        call()
    for _ in range(rounds):
        for call, spent in zip(calls, times, strict=True):
            began = time.perf_counter()
            call()
            spent.append(1000 * (time.perf_counter() - began))
    return [statistics.median(spent) for spent in times]


@contextmanager
def inputs_of(network: torch.nn.Module) -> Iterator[list[Any]]:
    """Within it, what the selector is asked: textures, questions and which tokens are real."""
    seen: list[Any] = []

    def note(_module: Any, inputs: Any, found: Any) -> None:
        seen.append((found.textures.float(), inputs[1].float(), inputs[2]))

    hook = network.register_forward_hook(note)
    try:
        yield seen
    finally:
        hook.remove()
