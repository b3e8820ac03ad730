"""Peaks over several stretches at once, though an allocator keeps only one."""

from __future__ import annotations

from typing import NamedTuple
from weakref import WeakSet

import torch

from lightning_arrcoc.memory.readings import Memory, Reading, memory_of


class Peak(NamedTuple):
    """The most of a stretch, in bytes."""

    allocated: int
    reserved: int


class Span:
    """A stretch under way; it ends where nobody holds it any more."""

    def __init__(self, peaks: Peaks) -> None:
        self._peaks = peaks
        self._most = Peak(0, 0)

    def include(self, reading: Reading) -> None:
        self._most = Peak(
            max(self._most.allocated, reading.allocated_peak),
            max(self._most.reserved, reading.reserved_peak),
        )

    def take(self) -> Peak:
        """The peak until now; another stretch begins."""
        self._peaks.fold()
        most, self._most = self._most, Peak(0, 0)
        return most


class Peaks:
    """Reads the allocator's peak, starts it anew, and tells it to every stretch under way."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.last = Reading(0, 0, 0, 0)
        """The latest reading, for those who come right after it."""
        self._spans: WeakSet[Span] = WeakSet()

    def span(self) -> Span:
        """A stretch that begins now."""
        self.fold()
        span = Span(self)
        self._spans.add(span)
        return span

    def fold(self) -> Reading:
        """Read, whatever the stretches."""
        reading = self.memory.read()
        self.memory.reset_peaks()
        for span in self._spans:
            span.include(reading)
        self.last = reading
        return reading


_SHARED: dict[str, Peaks] = {}


def use(memory: Memory, device: torch.device) -> None:
    """Have this read from now on, for all who ask for a device."""
    _SHARED[_key(device)] = Peaks(memory)


def peaks_of(device: torch.device) -> Peaks:
    """The same for all who ask for a device: two that reset its peak would rob each other."""
    key = _key(device)
    if key not in _SHARED:
        _SHARED[key] = Peaks(memory_of(device))
    return _SHARED[key]


def _key(device: torch.device) -> str:
    index = torch.cuda.current_device() if device.type == "cuda" else 0
    return f"{device.type}:{index if device.index is None else device.index}"
