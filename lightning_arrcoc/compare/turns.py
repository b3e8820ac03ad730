"""Who may use a device: one at a time, first come, first served."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from lightning_arrcoc.compare.errors import LineFullError, LineTimeoutError, StoppedError

STOP_EVERY_S = 0.05  # Chosen by us: how late someone who waits notices that nobody waits for them
Stop = Callable[[], bool]


class Line:
    """A lock whose waiters get it in the order in which they came.

    It is handed over: whoever lets go gives it to the first who waits, and nobody can come between.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._holder: int | None = None

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @contextmanager
    def turn(
        self, timeout_s: float, most_waiting: int | None = None, stop: Stop | None = None
    ) -> Iterator[None]:
        """Hold the device inside.

        Args:
            timeout_s: longest wait.
            most_waiting: where so many wait already, do not join them; None: join in any case.
            stop: asked again and again while waiting; True ends that.

        Raises:
            LineFullError, LineTimeoutError, StoppedError: there was no turn.
            RuntimeError: this thread has one already and would wait for itself.
        """
        self._wait(self._join(most_waiting), timeout_s, stop)
        try:
            yield
        finally:
            with self._guard:
                self._hand_over()

    def _join(self, most_waiting: int | None) -> threading.Event:
        called = threading.Event()
        with self._guard:
            if self._holder == threading.get_ident():
                raise RuntimeError(
                    "This thread uses the device already and would wait for itself. Leave the "
                    "block of `use` before the next one."
                )
            if self._holder is None and not self._waiting:
                self._holder = threading.get_ident()
                called.set()
            elif most_waiting is not None and len(self._waiting) >= most_waiting:
                raise LineFullError(
                    f"{len(self._waiting)} are waiting already, and no more than {most_waiting} "
                    "may. Try again in a moment."
                )
            else:
                self._waiting.append(called)
        return called

    def _wait(self, called: threading.Event, timeout_s: float, stop: Stop | None) -> None:
        until = time.monotonic() + timeout_s
        try:
            while not called.is_set():
                left = until - time.monotonic()
                if left <= 0:
                    raise LineTimeoutError(
                        f"The device did not become free within {timeout_s:g} s. Try again later, "
                        "or allow more with timeout_s."
                    )
                if stop is not None and stop():
                    raise StoppedError("Stopped while waiting.")
                called.wait(left if stop is None else min(left, STOP_EVERY_S))
            self._holder = threading.get_ident()
        except BaseException:
            with self._guard:
                if called.is_set():  # called between the last look and now
                    self._hand_over()
                else:
                    self._waiting.remove(called)
            raise

    def _hand_over(self) -> None:
        self._holder = None
        if self._waiting:
            self._holder = 0  # whose thread is still to wake up
            self._waiting.popleft().set()


_LINES: dict[str, Line] = {}


def line_of(device: torch.device) -> Line:
    """The same for all who ask for a device: comparators of one device take turns as well."""
    index = torch.cuda.current_device() if device.type == "cuda" else 0
    key = f"{device.type}:{index if device.index is None else device.index}"
    return _LINES.setdefault(key, Line())
