"""Similarity of letters, on cases worked by hand and against another implementation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.text import edit_distance

from lightning_arrcoc.metrics import Anls
from lightning_arrcoc.metrics.anls import similarity

COLA = ("Coca Cola", "Coca Cola Company")


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("coca  cola\n", 1),
        ("CocaCola", 8 / 9),  # a blank is missing
        ("The Coca", 0),  # 5 of 9 letters away: not below the threshold
        ("Coca", 0),
        ("Coca Col", 8 / 9),
        ("Coca Cola Compan", 16 / 17),  # the nearer of the two counts
        ("", 0),
    ],
)
def test_letters_that_are_missing_cost_their_share(prediction: str, expected: float) -> None:
    assert Anls().score(prediction, COLA) == pytest.approx(expected)


def test_half_of_the_letters_is_too_far() -> None:
    assert similarity("ab", "ax") == 0
    assert similarity("abc", "abx") == pytest.approx(2 / 3)


def test_nothing_equals_nothing() -> None:
    assert similarity("", "") == 1


@given(st.text("abc ", max_size=12), st.text("abc ", min_size=1, max_size=12))
def test_the_distance_is_that_of_torchmetrics_on_short_texts(one: str, other: str) -> None:
    distance = float(edit_distance([one], [other])) / max(len(one), len(other))
    assert similarity(one, other) == pytest.approx(1 - distance if distance < 0.5 else 0)


def test_a_text_that_is_shifted_far_is_measured_exactly() -> None:
    """torchmetrics' own distance finds 69 here."""
    letters = "abcdefghijklmnopqrstuvwxyz" * 3
    assert similarity("-" * 60 + letters, letters) == pytest.approx(78 / 138)
