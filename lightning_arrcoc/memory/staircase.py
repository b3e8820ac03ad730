"""A memory leak in a row of readings."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

from lightning_arrcoc.memory.readings import MIB

QUARTERS = 4


class Growth(NamedTuple):
    """A staircase: memory that grew, and kept growing, over a window of steps."""

    bytes_per_step: float
    steps: int


class Staircase:
    """Finds steady growth in what is allocated at the same point of each step.

    A line is fitted to the last `window` readings. It is a leak when the line rises by
    `least_bytes` over the window, when its slope is ten times its standard error, and when the
    least of each quarter lies above the least of the quarter before by at least half of what a
    steady rise would give: a single jump (another batch size, a buffer that is made late), a
    growth that comes to rest and noise around a level all fail the last. A swing that rises for
    longer than the window looks like a leak until it turns.

    Chosen by us: forty steps leave ten for the warm-up of a leak that is to be named within
    fifty; 8 MiB over the window is a fifth of 1 MiB a step; ten standard errors are never met by
    chance in the lifetime of a run.

    Args:
        window: readings that are looked at together.
        warm_up: first readings that are not: buffers and the optimizer's state are made in them.
        least_bytes: a smaller rise over the window is none.
    """

    def __init__(self, window: int = 40, warm_up: int = 5, least_bytes: int = 8 * MIB) -> None:
        self.window, self.warm_up, self.least_bytes = window, warm_up, least_bytes
        self._seen = 0
        self._readings: deque[int] = deque(maxlen=window)

    def add(self, allocated: int) -> Growth | None:
        """Take a step's reading in bytes; the growth, if there is a staircase."""
        self._seen += 1
        if self._seen <= self.warm_up:
            return None
        self._readings.append(allocated)
        if len(self._readings) < self.window or self._rise() < self.least_bytes:
            return None
        return self._judge(np.array(self._readings, dtype=np.float64))

    def restart(self) -> None:
        """Look at what comes next only."""
        self._readings.clear()

    def _rise(self) -> int:
        """Cheap, and never below the line's rise by much: most steps end here."""
        return max(self._readings) - min(self._readings)

    def _judge(self, heights: np.ndarray) -> Growth | None:
        steps = np.arange(self.window) - (self.window - 1) / 2
        slope = float(steps @ heights / (steps @ steps))
        residuals = heights - heights.mean() - slope * steps
        error = float(np.sqrt(residuals @ residuals / (self.window - 2) / (steps @ steps)))
        rise = slope * self.window
        if rise < self.least_bytes or slope < 10 * error:
            return None
        floors = [float(part.min()) for part in np.array_split(heights, QUARTERS)]
        if any(np.diff(floors) < rise / QUARTERS / 2):
            return None
        return Growth(slope, self.window)
