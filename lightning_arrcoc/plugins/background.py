"""Work that is done while a run goes on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Background:
    """One thread, one thing after the other; the interpreter does not end before the last."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: ThreadPoolExecutor | None = None
        self._last: Future[None] | None = None

    def do(self, work: Callable[..., None], *arguments: Any) -> None:
        """Behind all that was asked for before."""
        if self._thread is None:
            # Its thread is joined before the interpreter ends.
            self._thread = ThreadPoolExecutor(1, thread_name_prefix=self._name)
        self._last = self._thread.submit(work, *arguments)

    def wait(self) -> None:
        """Until nothing is left to do."""
        if self._last is not None:
            self._last.result()

    def stop(self) -> None:
        """Wait, and let the thread go; the next work begins another."""
        if self._thread is not None:
            self._thread.shutdown(wait=True)
            self._thread = self._last = None
