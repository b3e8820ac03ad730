"""Time and peak memory of what happens between marks, on a CPU or a GPU."""

from __future__ import annotations

import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch


class Stopwatch:
    """Starts when it is made.

    On a GPU a mark stands in the stream and keeps nothing waiting; what was queued before the start
    is not measured.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.marks: list[Any] = []
        if self.on_gpu:
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
        else:
            with suppress(OSError):  # Linux: the peak starts anew
                Path("/proc/self/clear_refs").write_text("5")
        self.mark()

    def mark(self, *_: Any) -> None:
        """Also as a module's hook."""
        if self.on_gpu:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    def laps(self) -> list[float]:
        """Seconds between the marks."""
        if self.on_gpu:
            self.marks[-1].synchronize()
            return [start.elapsed_time(end) / 1000 for start, end in pairwise(self.marks)]
        return [end - start for start, end in pairwise(self.marks)]

    def peak_gib(self) -> float | None:
        """What CUDA allocated; else the process's resident set, where the system tells it."""
        if self.on_gpu:
            return torch.cuda.max_memory_allocated() / 2**30
        with suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM"):
                    return int(line.split()[1]) / 2**20
        return None
