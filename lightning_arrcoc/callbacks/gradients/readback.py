"""Numbers that leave the device without anybody waiting for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Numbers = Tensor | list[float]


class Readback:
    """Gives what was handed in one call ago.

    On a CUDA device the copy goes to pinned memory behind what is queued. It is read when the next
    step's forward and backward are queued as well, so that the device has work meanwhile. The delay
    is one call whatever the device, so that all processes know the same at the same step.
    """

    def __init__(self) -> None:
        self._waiting: tuple[Numbers, Any, Any] | None = None
        self._pinned: list[Tensor] = []

    def exchange(self, numbers: Numbers, beside: Any = None) -> tuple[list[float], Any] | None:
        """Hand in numbers ``(n,)`` and whatever belongs to them; the last ones, None at first."""
        sent, event = numbers, None
        if isinstance(numbers, Tensor) and numbers.is_cuda:
            sent = self._buffer_for(numbers)
            sent.copy_(numbers, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        before = self.take()
        self._waiting = (sent, event, beside)
        return before

    def take(self) -> tuple[list[float], Any] | None:
        """What is still under way, once and for all."""
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return None
        numbers, event, beside = waiting
        return _known(numbers, event), beside

    def state_dict(self) -> list[float] | None:
        """The numbers under way, which stay there."""
        if self._waiting is None:
            return None
        numbers, event, _ = self._waiting
        return [*_known(numbers, event)]

    def load_state_dict(self, state: list[float] | None) -> None:
        if state is not None:
            self._waiting = ([*state], None, None)

    def _buffer_for(self, numbers: Tensor) -> Tensor:
        """The one of two that is not being read."""
        if not self._pinned or self._pinned[0].shape != numbers.shape:
            self._pinned = [
                torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True) for _ in range(2)
            ]
        self._pinned.reverse()
        return self._pinned[0]


def _known(numbers: Numbers, event: Any) -> list[float]:
    if event is not None:
        event.synchronize()
    return numbers.tolist() if isinstance(numbers, Tensor) else numbers
