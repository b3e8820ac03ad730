"""What happened from one line of figures to the next."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TypeGuard

import torch
from torch import Tensor

from lightning_arrcoc.callbacks.gradients.readback import Readback
from lightning_arrcoc.callbacks.throughput.clocks import HostClock, Mark
from lightning_arrcoc.callbacks.throughput.counting import COUNTS, Count

Stretch = tuple[Mark, Mark]
LOSS = ("loss_sum", "loss_count")
FIGURES = ("seconds", "own_s", "wait_s", "steps", *COUNTS, *LOSS)
"""What ranks tell each other of a window, in this order."""


class Window:
    """Gathers what is timed and counted; what lies on a device stays there until it is closed.

    Args:
        clock: that made the marks.
    """

    def __init__(self, clock: HostClock) -> None:
        self.clock = clock
        self.wait_s = 0.0
        self.rates: dict[str, float] = {}
        self._steps: list[list[Stretch]] = [[]]  # each of one batch or more; the last is open
        self._forwards: list[Stretch] = []
        self._batches = 0
        self._known: dict[str, float] = defaultdict(float)
        self._counted: dict[str, int] = defaultdict(int)  # batches that told of it
        self._tensors: dict[str, list[Tensor]] = defaultdict(list)
        self._losses: list[Tensor] = []
        self._names: list[str] = []  # of the numbers under way
        self._rate_names: set[str] = set()
        self._readback = Readback()
        self._closed: Mark | None = None

    @property
    def steps(self) -> int:
        """Steps that are complete."""
        return len(self._steps) - 1

    def add_batch(self, stretch: Stretch, ends_step: bool) -> None:
        """From the end of the batch before, or of what came between, to its own."""
        self._batches += 1
        self._steps[-1].append(stretch)
        if ends_step:
            self._steps.append([])

    def add_forward(self, stretch: Stretch) -> None:
        self._forwards.append(stretch)

    def add_counts(self, counts: Mapping[str, Count]) -> None:
        for name, value in counts.items():
            self._counted[name] += 1
            if lies_on_device(value):
                self._tensors[name].append(value.detach())
            else:
                self._known[name] += float(value)

    def add_loss(self, loss: Tensor) -> None:
        """A mean loss of a batch, in whatever shape it came."""
        self._losses.append(loss.detach().float().mean() if loss.numel() > 1 else loss.detach())

    @torch.no_grad()
    def close(self, rates: Mapping[str, Count]) -> None:
        """Send home what lies on a device: sums of counts and of finite losses, learning rates."""
        numbers = {name: torch.stack(each).sum() for name, each in self._tensors.items()}
        if self._losses:
            losses = torch.stack([loss.reshape(()).float() for loss in self._losses])
            finite = losses.isfinite()
            numbers["loss_sum"] = torch.where(finite, losses, 0).sum()
            numbers["loss_count"] = finite.sum()
        for name, rate in rates.items():
            if lies_on_device(rate):
                numbers[name] = rate.detach().mean()
        self.rates = {name: float(rate) for name, rate in rates.items() if name not in numbers}
        self._names, self._rate_names = list(numbers), set(rates)
        if numbers:
            device = next(iter(numbers.values())).device
            sent = [number.to(device, torch.float32) for number in numbers.values()]
            self._readback.exchange(torch.stack(sent))
        self._closed = self.clock.mark()

    @property
    def is_past(self) -> bool:
        """Whether it is closed and the device has come so far: nothing need be waited for."""
        return self._closed is not None and self.clock.is_past(self._closed)

    def step_seconds(self) -> list[float]:
        """Of each step."""
        return [
            sum(self.clock.between(*stretch) for stretch in step) for step in self._steps if step
        ]

    def figures(self) -> list[float | None]:
        """As `FIGURES` names them; None what is not known of every batch."""
        arrived = self._readback.take()
        numbers = dict(zip(self._names, arrived[0] if arrived else [], strict=True))
        self.rates |= {name: numbers.pop(name) for name in self._rate_names & set(numbers)}
        found: dict[str, float | None] = {
            name: self._known[name] + numbers.get(name, 0.0)
            for name in COUNTS
            if self._counted[name] == self._batches
        }
        forward_s = sum(self.clock.between(*stretch) for stretch in self._forwards)
        found |= {
            "seconds": sum(self.step_seconds()),
            "own_s": forward_s + self.wait_s if self._forwards else None,
            "wait_s": self.wait_s,
            "steps": float(self.steps),
            **{name: numbers.get(name) for name in LOSS},
        }
        return [found.get(name) for name in FIGURES]


def lies_on_device(value: Count) -> TypeGuard[Tensor]:
    """Whether reading it would mean to wait."""
    return isinstance(value, Tensor) and value.device.type != "cpu"
