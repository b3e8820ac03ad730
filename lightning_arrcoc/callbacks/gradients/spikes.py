"""Whether the next value of a curve leaves the run of the last ones, judged on the device."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

# Chosen by us: a spread below 5 % of the mean counts as 5 %, or the smallest ripple of a flat curve
# were a spike; with 6 sigma a spike is at least 30 % above the mean.
LEAST_SPREAD = 0.05


class Judged(NamedTuple):
    """Of each curve, on the device.

    Attributes:
        spike: whether the value is beyond the limit.
        limit: what it was compared with; infinite while there is too little to compare with.
        median: of the values before, NaN without any.
    """

    spike: Tensor
    limit: Tensor
    median: Tensor


class SpikeWindow:
    """The last finite values of several curves.

    A spike enters the window as the limit that it passed: one alone hardly widens it, and a level
    that stays is learnt within a few steps.

    Args:
        curves: how many.
        window: values of each that are remembered.
        sigma: standard deviations above the mean that are no spike yet.
        warmup: values of a curve that are learnt from before any is judged.
    """

    def __init__(self, curves: int, window: int, sigma: float, warmup: int) -> None:
        self.sigma, self.warmup = sigma, warmup
        self.values = torch.full((curves, window), torch.nan)
        self.seen = torch.zeros(curves, dtype=torch.int64)

    @torch.no_grad()
    def judge(self, values: Tensor) -> Judged:
        """Judge one value of each curve ``(curves,)`` and remember the finite ones."""
        self._to(values.device)
        value = values.float()
        mean = self.values.nanmean(1)
        spread = (self.values - mean[:, None]).square().nanmean(1).sqrt()
        limit = mean + self.sigma * torch.maximum(spread, LEAST_SPREAD * mean.abs())
        limit = torch.where(self.seen >= self.warmup, limit, torch.inf)
        finite = value.isfinite()
        spike = finite & (value > limit)
        entered = torch.cat([self.values[:, 1:], torch.minimum(value, limit)[:, None]], 1)
        median = self._median()
        self.values = torch.where(finite[:, None], entered, self.values)
        self.seen = self.seen + finite
        return Judged(spike, limit, median)

    def _median(self) -> Tensor:
        """By sorting, NaN last: torch's own `nanmedian` does not promise not to wait."""
        ordered = self.values.sort(1).values
        middle = ((~self.values.isnan()).sum(1) - 1).clamp(min=0) // 2
        return ordered.gather(1, middle[:, None]).squeeze(1)

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values.cpu().clone(), "seen": self.seen.cpu().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on; values of a longer window count from the latest, of a shorter one all."""
        window = self.values.shape[1]
        kept = state["values"][:, -window:]
        self.values = torch.full_like(state["values"][:, :1], torch.nan).repeat(1, window)
        self.values[:, window - kept.shape[1] :] = kept
        self.seen = state["seen"].clone()

    def _to(self, device: torch.device) -> None:
        if self.values.device != device:
            self.values, self.seen = self.values.to(device), self.seen.to(device)
