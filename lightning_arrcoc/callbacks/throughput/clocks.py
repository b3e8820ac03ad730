"""When something happened: on the device where it keeps time, else on the host."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple

import torch


class Mark(NamedTuple):
    """A moment: seconds of the host's clock, and an event in the device's stream if it has one."""

    time_s: float
    event: Any = None


class HostClock:
    """Moments are past as soon as they are marked.

    Args:
        now: seconds.
    """

    is_late = False  # whether a moment is known only some time after it was marked

    def __init__(self, now: Callable[[], float] = perf_counter) -> None:
        self.now = now

    def mark(self) -> Mark:
        return Mark(self.now())

    def is_past(self, mark: Mark) -> bool:
        return True

    def between(self, start: Mark, end: Mark) -> float:
        """Seconds between two moments that are past."""
        return end.time_s - start.time_s


class CudaClock(HostClock):
    """Moments of a CUDA stream: marked behind what is queued, asked for later, never waited for."""

    is_late = True

    def __init__(self, device: torch.device, now: Callable[[], float] = perf_counter) -> None:
        super().__init__(now)
        self.device = device

    def mark(self) -> Mark:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        return Mark(self.now(), event)

    def is_past(self, mark: Mark) -> bool:
        return bool(mark.event.query())

    def between(self, start: Mark, end: Mark) -> float:
        return float(start.event.elapsed_time(end.event)) / 1000


def clock_of(device: torch.device) -> HostClock:
    """CUDA keeps time by itself; elsewhere the host does."""
    return CudaClock(device) if device.type == "cuda" else HostClock()
