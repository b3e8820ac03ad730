"""Python's collection of cycles, at fixed steps instead of whenever."""

from __future__ import annotations

import gc


class Collecting:
    """Disables Python's own collection, and collects every so many steps; then as it was.

    Then it is what has come since the last time, in about a millisecond; what is older takes a
    hundred, waits for `all`, and for ten times as many steps.

    Args:
        every: steps; None leaves Python as it is.
    """

    def __init__(self, every: int | None) -> None:
        self.every = every
        self._steps = self._all_at = 0
        self._was_enabled: bool | None = None  # None where nothing was changed

    def start(self) -> None:
        if self.every is not None and self._was_enabled is None:
            self._was_enabled = gc.isenabled()
            gc.disable()
            gc.collect()

    def step(self) -> None:
        """One more is done."""
        self._steps += 1
        if self._was_enabled is not None and self.every and self._steps % self.every == 0:
            gc.collect(1)

    def all(self) -> None:
        """Where a pause does not matter."""
        due = self.every is not None and self._steps - self._all_at >= 10 * self.every
        if self._was_enabled is not None and due:
            self._all_at = self._steps
            gc.collect()

    def stop(self) -> None:
        """Harmless when repeated."""
        if self._was_enabled:
            gc.enable()
        self._was_enabled = None
