"""What a log tells of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


class Curve(NamedTuple):
    """A metric as it was logged, in the order of the file: a resumed run goes back in steps.

    Attributes:
        steps, values: ``(points,)``; values may be nan and infinite.
    """

    steps: Numbers
    values: Numbers

    @property
    def finite(self) -> Curve:
        """The points that can be drawn."""
        keep = np.isfinite(self.values)
        return Curve(self.steps[keep], self.values[keep])


class Happening(NamedTuple):
    """An event of a run.

    Attributes:
        name: ``area/what``, as it was recorded.
        step: None where the log does not say.
        fields: what else there is, secrets hidden.
    """

    name: str
    step: float | None
    rank: int
    level: str
    time: datetime | None
    fields: dict[str, Any]


@dataclass
class Run:
    """All that is known of one run.

    Attributes:
        source: folder of the log.
        told_by: ``log.jsonl`` or ``metrics.csv``; the second tells less.
        started: fields of the last header.
        ended: fields of the footer that belongs to it; None where there is none.
        starts: how many headers there are; more than one where a run was resumed, or tested.
        of_last_start: how many `happenings` came before the last header.
        unreadable: lines that are no JSON object, a last one without an end apart.
        torn: whether the last line was cut short.
        notes: what else a reader should know of how this was read.
    """

    name: str
    source: Path
    told_by: str
    curves: dict[str, Curve] = field(default_factory=dict)
    happenings: list[Happening] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    started: dict[str, Any] = field(default_factory=dict)
    ended: dict[str, Any] | None = None
    starts: int = 0
    of_last_start: int = 0
    first_time: datetime | None = None
    last_time: datetime | None = None
    last_step: float | None = None
    last_epoch: float | None = None
    ranks: list[int] = field(default_factory=list)
    unreadable: int = 0
    torn: bool = False
    notes: list[str] = field(default_factory=list)

    def note_place(self, step: float | None, epoch: float | None, time: datetime | None) -> None:
        """Remember how far the run came."""
        if step is not None:
            self.last_step = max(step, self.last_step or 0)
        if epoch is not None:
            self.last_epoch = max(epoch, self.last_epoch or 0)
        if time is not None:
            self.first_time = min(time, self.first_time or time)
            self.last_time = max(time, self.last_time or time)
