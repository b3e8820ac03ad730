"""How many requests are inside at once."""

from __future__ import annotations

import math

from lightning_arrcoc.serve.errors import RequestError


class Admission:
    """Counts requests in and out, and refuses those beyond a limit.

    It belongs to one thread: that of the event loop.

    Args:
        most: inside at once, waiting and running.
        batch: that are answered together.

    Attributes:
        inside: how many there are.
    """

    def __init__(self, most: int, batch: int) -> None:
        self.inside = 0
        self._most, self._batch = most, batch
        self._last_s = 1.0  # how long the last answer took

    def enter(self) -> None:
        """Count one in.

        Raises:
            RequestError: there are too many (429), with the time when to come again: that of the
                batches ahead, each as long as the last answer took.
        """
        if self.inside >= self._most:
            wait_s = self._last_s * self.inside / self._batch
            raise RequestError(
                429,
                f"{self.inside} requests are being answered or wait; come again later.",
                code="queue_full",
                retry_after_s=max(1, min(60, math.ceil(wait_s))),
            )
        self.inside += 1

    def leave(self, took_s: float | None = None) -> None:
        """Count one out.

        Args:
            took_s: how long its answer took, where it got one.
        """
        self.inside -= 1
        self._last_s = self._last_s if took_s is None else took_s
