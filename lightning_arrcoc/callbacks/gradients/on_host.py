"""Judging in plain numbers, for one process whose gradients lie on the CPU.

There a number costs nothing to read, and a call of torch on a few of them costs more than all of
the arithmetic here: 5 to 15 microseconds each between two steps, when nothing is in the caches.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_arrcoc.callbacks.gradients.spikes import LEAST_SPREAD, Judged
from lightning_arrcoc.callbacks.gradients.watched import Verdict, Watched


class HostWindow:
    """As `SpikeWindow`, of plain numbers, and with the same state."""

    def __init__(self, curves: int, window: int, sigma: float, warmup: int = 0) -> None:
        self._curves = [_Curve(window, sigma, warmup) for _ in range(curves)]

    def judge(self, values: Sequence[float]) -> Judged:
        """Judge one value of each curve and remember the finite ones."""
        found = [curve.judge(value) for curve, value in zip(self._curves, values, strict=True)]
        return Judged(*([*of_all] for of_all in zip(*found, strict=True)))

    def state_dict(self) -> dict[str, Any]:
        return {
            "values": torch.tensor([curve.padded() for curve in self._curves], dtype=torch.float64),
            "seen": torch.tensor([curve.seen for curve in self._curves]),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        rows = zip(self._curves, state["values"].tolist(), state["seen"].tolist(), strict=True)
        for curve, values, seen in rows:
            curve.restore(values, seen)


class _Curve:
    def __init__(self, window: int, sigma: float, warmup: int) -> None:
        self.sigma, self.warmup, self.seen = sigma, warmup, 0
        self._last: deque[float] = deque(maxlen=window)
        self._sorted: list[float] = []

    def judge(self, value: float) -> tuple[bool, float, float]:
        """Whether it is a spike, the limit, and the median of the values before."""
        limit = median = math.nan
        count = len(self._last)
        if count == self._last.maxlen:
            mean = sum(self._last) / count
            deviation = math.dist(self._last, [mean] * count) / math.sqrt(count)
            if self.seen >= self.warmup:
                limit = mean + self.sigma * max(deviation, LEAST_SPREAD * abs(mean))
            median = self._sorted[(count - 1) // 2]
        if not math.isfinite(value):
            return False, limit, median
        is_spike = value > limit  # with NaN nothing compares
        self._enter(limit if is_spike else value)
        self.seen += 1
        return is_spike, limit, median

    def padded(self) -> list[float]:
        missing = (self._last.maxlen or 0) - len(self._last)
        return [math.nan] * missing + [*self._last]

    def restore(self, values: Sequence[float], seen: int) -> None:
        self._last.clear()
        self._last.extend(value for value in values if not math.isnan(value))
        self._sorted, self.seen = sorted(self._last), seen

    def _enter(self, value: float) -> None:
        if len(self._last) == self._last.maxlen:
            del self._sorted[bisect_left(self._sorted, self._last[0])]
        self._last.append(value)
        insort(self._sorted, value)


class HostWatched(Watched):
    """As `Watched`, of plain numbers."""

    window_class: type[Any] = HostWindow

    def judge(
        self, loss: Tensor | None, scale: Tensor | None, gradient_scale: Tensor | None
    ) -> Verdict | None:
        measured = self.norms.measure_on_host()
        if measured is None:
            return None
        shared = math.nan if loss is None else float(loss)
        if scale is not None:
            shared /= float(scale)
        if gradient_scale is not None:
            by = float(gradient_scale)
            groups = [norm / by for norm in measured.groups]
            measured = measured._replace(total=measured.total / by, groups=groups)
        finite = math.isfinite(measured.total) and (loss is None or math.isfinite(shared))
        curves = [measured.total, shared]
        return Verdict(measured, curves, not finite, self.window.judge(curves))

    def reading(self, verdict: Verdict, withheld: Any) -> list[float]:
        last, self.last_update = self.last_update, None
        moved = [math.nan, math.nan] if last is None else last.tolist()
        judged = verdict.judged
        flags = map(float, (verdict.nonfinite, *judged.spike, withheld))
        before = (*verdict.curves, *judged.median, *judged.limit)
        return [*before, *flags, *moved, *verdict.measured.groups]
