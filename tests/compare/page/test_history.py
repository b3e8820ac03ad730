"""The file of what was asked."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_arrcoc.compare.page.history import FORMULA_STARTS, Row, as_csv


def row(question: str = "why", answer: str = "so") -> Row:
    return Row("2026-11-22 10:00:00", question, "last", answer, 14, 144, 10, *(1.5,) * 8)


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_every_column_has_its_name_and_numbers_stay_numbers() -> None:
    text = as_csv([row()])
    assert text.splitlines()[0] == ",".join(f'"{name}"' for name in Row._fields)
    (found,) = read(text)
    assert (found["tokens"], found["swap_ms"], found["answer"]) == ("14", "1.5", "so")
    assert '"why","last","so",14,144,10,1.5' in text


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        "  =cmd|'/c calc'!A1",
        "|x",
        "\uff1d1",
    ],
)
def test_no_text_is_a_formula(text: str) -> None:
    (found,) = read(as_csv([row(text, text)]))
    assert found["question"] == found["answer"] == f"'{text}"


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")))
def test_text_is_harmless_and_can_be_had_back(text: str) -> None:
    (found,) = read(as_csv([row(text)]))
    written = found["question"]
    assert not written.lstrip(" ").startswith(FORMULA_STARTS)
    assert (written[1:] if written.startswith("'") else written) == text


def test_quotes_commas_and_lines_stay_inside_their_cell() -> None:
    (found,) = read(as_csv([row('a "b", c\nd')]))
    assert found["question"] == 'a "b", c\nd'
