"""The figures of all ranks -> what is logged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from lightning_arrcoc.callbacks.throughput.counting import COUNTS
from lightning_arrcoc.callbacks.throughput.window import FIGURES, LOSS

HIGHEST_LOSS = 700.0  # nats; e to the power of more is beyond a float


class Together(NamedTuple):
    """A window as all ranks saw it.

    Attributes:
        seconds: mean of the ranks.
        steps: of each rank.
        waiting: share of the time in which a process waited for a batch, mean of the ranks.
        counts: sums over ranks, of what all ranks know.
        loss: mean of the finite ones; None without any.
        own_s: seconds of each rank before it met the others, a step; None where one does not know.
    """

    seconds: float
    steps: int
    waiting: float
    counts: dict[str, float]
    loss: float | None
    own_s: list[float] | None


def put_together(rows: Sequence[Sequence[float | None]]) -> Together | None:
    """None if a rank's device has not come to the end of the window, or it was empty.

    Args:
        rows: for each rank its figures, as `FIGURES` names them.
    """
    columns = dict(zip(FIGURES, zip(*rows, strict=True), strict=True))
    seconds, steps = known(columns["seconds"]), known(columns["steps"])
    if not seconds or not steps or not all(steps) or not all(seconds):
        return None
    counts = {name: sum(each) for name in COUNTS if (each := known(columns[name])) is not None}
    losses, finite = (sum(filter(None, columns[name])) for name in LOSS)
    own = known(columns["own_s"])
    waits = known(columns["wait_s"]) or []
    return Together(
        seconds=sum(seconds) / len(rows),
        steps=int(steps[0]),
        waiting=min(1.0, sum(waits) / sum(seconds)),
        counts=counts,
        loss=losses / finite if finite else None,
        own_s=None if own is None else [a / b for a, b in zip(own, steps, strict=True)],
    )


def known(column: Sequence[float | None]) -> list[float] | None:
    """A figure of all ranks, if all know it."""
    found = [value for value in column if value is not None]
    return found if len(found) == len(column) else None


def pace(
    together: Together, steps_s: Sequence[float], peak_flops: float | None
) -> dict[str, float]:
    """Rates, waiting and step times of a window.

    Args:
        together: the window.
        steps_s: seconds of each step of this rank.
        peak_flops: of all devices together, a second; None where unknown.
    """
    found = {
        f"{name}_per_s": value / together.seconds
        for name, value in together.counts.items()
        if name != "flops"
    }
    found["data_wait_percent"] = 100 * together.waiting
    found["step_p50_ms"], found["step_p95_ms"] = (
        1000 * float(value) for value in np.percentile(steps_s, [50, 95])
    )
    if peak_flops and "flops" in together.counts:
        found["mfu"] = together.counts["flops"] / together.seconds / peak_flops
    return found


class SmoothedLoss:
    """A mean that forgets, by steps, and knows nothing of what came before the first.

    Source: D. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, section 3
    (the bias correction). Departures: a window's steps count at once, by their mean.

    Args:
        steps: after so many a step's weight has fallen to about a third.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._sum = self._weight = 0.0

    def add(self, loss: float, steps: int) -> None:
        kept = (1 - 1 / self.steps) ** steps
        self._sum = kept * self._sum + (1 - kept) * loss
        self._weight = kept * self._weight + (1 - kept)

    @property
    def value(self) -> float | None:
        return self._sum / self._weight if self._weight else None

    @property
    def perplexity(self) -> float | None:
        return None if self.value is None else math.exp(min(self.value, HIGHEST_LOSS))

    def state_dict(self) -> dict[str, float]:
        return {"sum": self._sum, "weight": self._weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sum, self._weight = float(state.get("sum", 0)), float(state.get("weight", 0))


class Lag(NamedTuple):
    """The slowest rank, and by how many seconds a step it is slower than the others' median."""

    rank: int
    seconds: float


class Stragglers:
    """Judges who holds the others up.

    Ranks that wait for each other end their steps together, so that it shows in what each does
    before it meets the others.

    Args:
        share: of a step, from which on a lag counts.
        patience: windows in a row.
    """

    def __init__(self, share: float, patience: int) -> None:
        self.share, self.patience = share, patience
        self._rank, self._windows = -1, 0

    def judge(self, own_s: Sequence[float], step_s: float) -> tuple[Lag, bool]:
        """The slowest, and whether it has been so for `patience` windows, just now."""
        rank = max(range(len(own_s)), key=own_s.__getitem__)
        others = [value for other, value in enumerate(own_s) if other != rank]
        lag = Lag(rank, own_s[rank] - median(others))
        if lag.seconds <= self.share * step_s:
            self._windows = 0
        else:
            self._windows = self._windows + 1 if rank == self._rank else 1
        self._rank = rank
        return lag, self._windows == self.patience
