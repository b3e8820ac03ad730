"""What was asked and answered, as rows of a table and of a file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lightning_arrcoc.compare.contestants import Contestant
from lightning_arrcoc.memory.readings import MIB

# What a spreadsheet takes for the beginning of a formula, and what it skips before one.
FULL_WIDTH = ("\uff1d", "\uff0b", "\uff0d", "\uff20")  # what some take for =, +, - and @
FORMULA_STARTS = ("=", "+", "-", "@", "|", "\t", "\r", "\n", *FULL_WIDTH)


class Row(NamedTuple):
    """One answer. The names are the head of the file."""

    time: str
    question: str
    contestant: str
    answer: str
    tokens: int
    cells: int
    budget_percent: float
    texture_ms: float
    selection_ms: float
    vision_ms: float
    prefill_ms: float
    decode_ms: float
    swap_ms: float
    peak_mib: float
    base_mib: float


def rows_of(
    contestants: Iterable[Contestant], question: str, percent: float, time: str
) -> list[Row]:
    """A row for each answer."""
    return [
        Row(
            time, question, one.name, one.answer, one.tokens, one.cells, percent,
            _ms(one.times.texture), _ms(one.times.selection), _ms(one.times.vision),
            _ms(one.times.prefill), _ms(one.times.decode), _ms(one.swap_s),
            round(one.peak_bytes / MIB, 1), round(one.base_bytes / MIB, 1),
        )
        for one in contestants
    ]  # fmt: skip


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)


def as_csv(rows: Sequence[Row]) -> str:
    """A file for a spreadsheet, in which no text is a formula.

    Text that would be taken for one gets an apostrophe before it, as does text that has one
    already, so that taking one off gives back what was written.

    Source: OWASP, CSV Injection. Departure: the apostrophe is doubled where it was there.
    """
    file = io.StringIO(newline="")
    writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\r\n")
    writer.writerow(Row._fields)
    for row in rows:
        writer.writerow([_harmless(cell) if isinstance(cell, str) else cell for cell in row])
    return file.getvalue()


def _harmless(text: str) -> str:
    is_formula = text.lstrip(" ").startswith(FORMULA_STARTS) or text.startswith("'")
    return f"'{text}" if is_formula else text
