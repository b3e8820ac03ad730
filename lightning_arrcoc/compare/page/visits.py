"""What the page remembers of a visitor between two requests, and for how long."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from lightning_arrcoc.compare.contestants import Contestant
from lightning_arrcoc.compare.page.history import Row

MOST_ROWS = 400  # of a visitor's history; chosen by us: a hundred questions to four


class Failed(NamedTuple):
    """A contestant that could not answer, and why, in words that may be shown."""

    name: str
    why: str


Outcome = Contestant | Failed


class Visit:
    """One open page.

    Attributes:
        outcomes: of the last question, in the order of the cards.
        size: width and height of its picture, in pixels.
        percent: the budget they answered with.
        rows: its history, the oldest first.
        asking: number of the question that is being answered; another one ends it.
    """

    def __init__(self) -> None:
        self.outcomes: tuple[Outcome, ...] = ()
        self.size = (1, 1)
        self.percent: float = 0
        self.rows: list[Row] = []
        self.asking = 0

    @property
    def answered(self) -> list[Contestant]:
        """Outcomes that are answers."""
        return [one for one in self.outcomes if isinstance(one, Contestant)]

    @property
    def bytes(self) -> int:
        """What its tensors take."""
        return sum(map(_bytes, self.answered))

    def begin(self) -> int:
        """Number a new question; who answers an older one of this visitor stops."""
        self.asking += 1
        self.outcomes = ()
        return self.asking

    def stop(self) -> None:
        """End what is being answered; what was answered stays."""
        self.asking += 1

    def remember(
        self, outcomes: Sequence[Outcome], size: tuple[int, int], percent: float, rows: list[Row]
    ) -> None:
        """Keep a comparison until the next one."""
        self.outcomes, self.size, self.percent = tuple(outcomes), size, percent
        self.rows = [*self.rows, *rows][-MOST_ROWS:]


class Visits:
    """The last visitors, bounded by number and by bytes; the least recent is forgotten.

    Args:
        most: visitors.
        most_bytes: of all their tensors together.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self.most, self.most_bytes = most, most_bytes
        self._kept: OrderedDict[str, Visit] = OrderedDict()
        self._guard = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, session: str) -> Visit:
        """Of a session, a new one where nothing is kept of it."""
        with self._guard:
            visit = self._kept.setdefault(session, Visit())
            self._kept.move_to_end(session)
            while len(self._kept) > 1 and (
                len(self) > self.most or self._bytes() > self.most_bytes
            ):
                self._kept.popitem(last=False)[1].stop()
            return visit

    def forget(self, session: str) -> None:
        """The page was closed: end what it waits for."""
        with self._guard:
            visit = self._kept.pop(session, None)
        if visit is not None:
            visit.stop()

    def _bytes(self) -> int:
        return sum(visit.bytes for visit in self._kept.values())


def _bytes(contestant: Contestant) -> int:
    tensors = (
        contestant.scores, contestant.textures, *contestant.found, *contestant.allocation,
    )  # fmt: skip
    return sum(part.numel() * part.element_size() for part in tensors if part is not None)
