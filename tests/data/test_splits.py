"""Splits are the same in every run, and share no picture."""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_arrcoc.data.splits import check_split, rows_by_column, rows_by_share

SHARES = {"train": 0.5, "val": 0.2, "test": 0.3}


def digest(number: int) -> str:
    return sha256(str(number).encode()).hexdigest()


def parts(pictures: list[list[int]]) -> dict[str, list[int]]:
    digests = [[digest(number) for number in row] for row in pictures]
    found = {}
    for split in SHARES:
        try:
            found[split] = rows_by_share(digests, SHARES, split).tolist()
        except ValueError:
            found[split] = []
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=3), min_size=1, max_size=25))
def test_every_row_is_in_one_split_and_no_picture_in_two(pictures: list[list[int]]) -> None:
    found = parts(pictures)
    assert sorted(row for rows in found.values() for row in rows) == list(range(len(pictures)))
    seen = [{number for row in rows for number in pictures[row]} for rows in found.values()]
    assert not (seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2])
    assert all(rows == sorted(rows) for rows in found.values())


@pytest.mark.parametrize("pictures_a_row", [1, 3])
def test_shares_are_met_on_average(pictures_a_row: int) -> None:
    pictures = [[row * 3 + i for i in range(pictures_a_row)] for row in range(4000)]
    for split, rows in parts(pictures).items():
        assert len(rows) / 4000 == pytest.approx(SHARES[split], abs=0.03)


def test_rows_joined_through_others_stay_together() -> None:
    chain = [[i, i + 1] for i in range(50)]
    assert sorted(len(rows) for rows in parts(chain).values()) == [0, 0, 50]


def test_rows_that_are_added_leave_the_others_where_they_are() -> None:
    few, many = parts([[i] for i in range(100)]), parts([[i] for i in range(200)])
    assert {split: [r for r in rows if r < 100] for split, rows in many.items()} == few


def test_where_a_picture_falls_is_the_same_in_every_run() -> None:
    assert parts([[i] for i in range(12)]) == {
        "train": [0, 3, 4, 7, 9, 11],
        "val": [6, 8],
        "test": [1, 2, 5, 10],
    }


def test_a_share_that_gets_nothing_says_so() -> None:
    with pytest.raises(
        ValueError, match=r"Of 1 rows with 1 different pictures none falls to 'val'"
    ):
        rows_by_share([[digest(0)]], SHARES, "val")


def test_a_column_names_the_split() -> None:
    names = ["train", None, "val", "train"]
    assert rows_by_column(names, "train").tolist() == [0, 3]
    assert rows_by_column(names, "val").dtype == np.int64
    with pytest.raises(ValueError, match=r"No row of split 'test'; .* says None, train, val"):
        rows_by_column(names, "test")


@pytest.mark.parametrize(
    ("split", "shares", "column", "message"),
    [
        ("train", None, None, "expected a split and one of the two"),
        (None, SHARES, None, "expected a split and one of the two"),
        (None, None, "part", "expected a split and one of the two"),
        ("train", SHARES, "part", "choose one of the two"),
        ("dev", SHARES, None, "split='dev'; shares has train, val, test"),
        ("a", {"a": 0.5, "b": 0.4}, None, "shares >= 0 that sum to 1"),
        ("a", {"a": 1.5, "b": -0.5}, None, "shares >= 0 that sum to 1"),
    ],
)
def test_a_split_that_nothing_defines_is_refused(
    split: str | None, shares: dict[str, float] | None, column: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_split(split, shares, column)
