"""The events of runs as a table tells them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lightning_arrcoc.report.panels import kind_of
from lightning_arrcoc.report.run import Happening, Run


class Happened(NamedTuple):
    """Events of the same name in a row, of one run: the first of them, and the last step."""

    run: int
    kind: str
    event: Happening
    last_step: float | None
    times: int


def happened(runs: Sequence[Run]) -> Iterator[Happened]:
    """Events in their order, the same in a row as one; what stands elsewhere is left out."""
    for place, run in enumerate(runs):
        row: list[Happening] = []
        for event in [*filter(_is_news, run.happenings), None]:
            if event is not None and row and _alike(row[-1], event):
                row.append(event)
                continue
            if row:
                yield Happened(place, kind_of(row[0]), row[0], row[-1].step, len(row))
            row = [event] if event is not None else []


def _is_news(event: Happening) -> bool:
    """Not a header, the footer of a success, or what was said in passing."""
    passing = event.name in ("log", "run/ended") and event.level in ("INFO", "DEBUG")
    return not passing and event.name != "run/started"


def _alike(one: Happening, other: Happening) -> bool:
    said = ("message", "reason", "sign")
    return (one.name, one.rank) == (other.name, other.rank) and all(
        one.fields.get(key) == other.fields.get(key) for key in said
    )
