"""When the training loop asks its loader for a batch, and gets it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

FETCH = ".train_dataloader_next"
"""How Lightning calls it: it tells its profiler, whichever it is, of every batch it fetches."""


class FetchListener:
    """Listens to what a Trainer tells its profiler.

    It tells of nothing else between two steps that is fetching alone: there are hooks, logging and
    checkpoints as well, which a clock from hook to hook would count in.

    Args:
        profiler: the Trainer's; one that does nothing will do.
        on_start, on_end: called around every fetch of the training loop.
    """

    def __init__(
        self, profiler: Any, on_start: Callable[[], None], on_end: Callable[[], None]
    ) -> None:
        self._profiler = profiler
        start, stop = profiler.start, profiler.stop

        def listening_start(action_name: str) -> None:
            if self._listens and action_name.endswith(FETCH):
                on_start()
            start(action_name)

        def listening_stop(action_name: str) -> None:
            stop(action_name)
            if self._listens and action_name.endswith(FETCH):
                on_end()

        self._listens = True
        self._own = {"start": listening_start, "stop": listening_stop}
        self._before = {name: vars(profiler).get(name) for name in self._own}
        vars(profiler).update(self._own)

    def let_go(self) -> None:
        """Leave the profiler as it was, or what somebody else has put around it since.

        Harmless when repeated.
        """
        self._listens = False
        attributes = vars(self._profiler)
        for name, own in self._own.items():
            if attributes.get(name) is not own:
                continue
            del attributes[name]
            if (before := self._before[name]) is not None:
                attributes[name] = before
