"""What happens to a run besides numbers: a checkpoint saved, a batch skipped, ..."""

from __future__ import annotations

import logging
import time
import warnings
from typing import Any, NamedTuple

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_only

log = logging.getLogger(__name__)


class Event(NamedTuple):
    """One thing that happened.

    Attributes:
        name: ``area/what``, in the past tense: ``checkpoint/saved``.
        fields: what else there is to tell; plain values that JSON knows.
        step, epoch: the trainer's, as far as it has come; 0 without one.
        rank: the process that tells it.
        time_s: seconds since 1970; nothing is ordered by it.
    """

    name: str
    fields: dict[str, Any]
    step: int
    epoch: int
    rank: int
    time_s: float


def record(trainer: pl.Trainer | None, name: str, /, **fields: Any) -> Event:
    """Tell whoever listens, on this rank: no process waits for another.

    Callbacks and loggers of the trainer listen by having a method ``on_event(event)``. Beside them
    Python's `logging` is told at level DEBUG, under ``lightning_arrcoc.events``, where there is
    no trainer either. What a listener raises becomes a warning: a run does not end for its record.

    Args:
        trainer: whose run it belongs to.
        name: ``area/what``.
        fields: plain values: numbers, text, lists and mappings of them.
    """
    event = Event(
        name,
        fields,
        step=trainer.global_step if trainer else 0,
        epoch=trainer.current_epoch if trainer else 0,
        rank=trainer.global_rank if trainer else int(getattr(rank_zero_only, "rank", 0)),
        time_s=time.time(),
    )
    log.debug("%s %s", name, fields, extra={"event": event})
    listeners: list[Any] = [*trainer.callbacks, *trainer.loggers] if trainer else []  # type: ignore[attr-defined]
    for listener in listeners:
        try:
            getattr(listener, "on_event", _ignore)(event)
        except Exception as error:
            who = type(listener).__name__
            warnings.warn(f"{who} could not take the event {name!r}: {error}", stacklevel=2)
    return event


def _ignore(event: Event) -> None:
    """Most callbacks and loggers do not listen."""
