"""What the processes of a server tell each other of the model's life."""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from collections.abc import Iterator


class Lifeline:
    """Given to each process; made of a pipe and shared memory, which travel however one starts.

    Moments are those of `time.monotonic`, which is one clock for all processes of a machine.
    """

    def __init__(self) -> None:
        self._reports, self._report = multiprocessing.Pipe(duplex=False)
        self._cut = multiprocessing.RawValue("d", -math.inf)

    def report(self, problem: str = "") -> None:
        """Say, in the process with the model, that it is loaded.

        Args:
            problem: why it cannot be, if so.
        """
        self._report.send((os.getpid(), problem))

    def reports(self) -> Iterator[tuple[int, str]]:
        """What was reported since the last time: process and problem."""
        while self._reports.poll():
            yield self._reports.recv()

    def cut(self) -> None:
        """All that was asked until now was asked of a process that is dead."""
        self._cut.value = time.monotonic()

    def is_cut(self, since: float) -> bool:
        """Whether what was asked at that moment gets no answer any more."""
        return bool(since < self._cut.value)
