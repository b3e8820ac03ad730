"""Whether the next value of a curve leaves the run of the last ones, judged on the device."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

# Chosen by us: a spread below 5 % of the mean counts as 5 %, or the smallest ripple of a flat curve
# were a spike; with 6 sigma a spike is at least 30 % above the mean.
LEAST_SPREAD = 0.05


class Judged(NamedTuple):
    """Of each curve, on the device; or lists of plain numbers.

    Attributes:
        spike: whether the value is beyond the limit.
        limit: what it was compared with; NaN while there is too little to compare with.
        median: of the values before, NaN as well.
    """

    spike: Any
    limit: Any
    median: Any


class SpikeWindow:
    """The last finite values of several curves.

    A spike enters the window as the limit that it passed: one alone hardly widens it, and a level
    that stays is learnt within a few steps.

    Args:
        curves: how many.
        window: values of each that are remembered; nothing is judged before they are full.
        sigma: standard deviations above the mean that are no spike yet.
        warmup: values of a curve that are learnt from before any is judged, where that is longer.
    """

    def __init__(self, curves: int, window: int, sigma: float, warmup: int = 0) -> None:
        self.sigma, self.warmup = sigma, warmup
        self.values = torch.full((curves, window), torch.nan)
        self.seen = torch.zeros(curves, dtype=torch.int64)

    @torch.no_grad()
    def judge(self, value: Tensor) -> Judged:
        """Judge one value of each curve ``(curves,)`` and remember the finite ones."""
        self._to(value.device)
        value = value.float()
        variance, mean = torch.var_mean(self.values, 1, correction=0)
        limit = (
            torch.maximum(variance.sqrt(), mean.abs() * LEAST_SPREAD).mul_(self.sigma).add_(mean)
        )
        if self.warmup > self.values.shape[1]:
            limit = torch.where(self.seen >= self.warmup, limit, torch.nan)
        finite = value.isfinite()
        spike = (value > limit) & finite  # with NaN nothing compares
        median = self.values.median(1).values
        entered = torch.cat([self.values[:, 1:], value.fmin(limit)[:, None]], 1)
        self.values = torch.where(finite[:, None], entered, self.values)
        self.seen = self.seen + finite
        return Judged(spike, limit, median)

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values.cpu().clone(), "seen": self.seen.cpu().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # plain numbers, where it was saved on a CPU
        self.values, self.seen = state["values"].float().clone(), state["seen"].clone()

    def _to(self, device: torch.device) -> None:
        if self.values.device != device:
            self.values, self.seen = self.values.to(device), self.seen.to(device)
