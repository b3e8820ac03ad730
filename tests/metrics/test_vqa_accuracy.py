"""Accuracy by consensus, on cases worked by hand."""

from __future__ import annotations

import pytest

from lightning_arrcoc.metrics import VqaAccuracy
from lightning_arrcoc.metrics.vqa_accuracy import CONTRACTIONS, evened


def score(prediction: str, *accepted: str) -> float:
    return VqaAccuracy().score(prediction, accepted)


@pytest.mark.parametrize(
    ("people", "worth"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1)]
)
def test_an_answer_is_worth_a_third_for_each_of_the_others_who_gave_it(
    people: int, worth: float
) -> None:
    """Of ten, each left out once: one of two is alone in 2 cases (1/3), both count in 8 (2/3)."""
    assert score("red", *["red"] * people, *["blue"] * (10 - people)) == pytest.approx(worth)


def test_where_all_agree_the_letters_count() -> None:
    assert score("yes", *["yes"] * 10) == 1
    assert score("Yes", *["yes"] * 10) == 0
    assert score(" yes\n", *["yes"] * 10) == 1


def test_where_people_differ_their_spelling_is_evened_out() -> None:
    accepted = ["The two dogs", "2 dogs", "two dogs.", "2 dogs", *["cats"] * 6]
    assert score("2 Dogs!", *accepted) == 1


def test_a_single_answer_counts_as_ten_that_agree() -> None:
    assert score("left", "left") == 1
    assert score("right", "left") == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A Man", "man"),
        ("an apple and the pear", "apple and pear"),
        ("none", "0"),
        ("Ten", "10"),
        ("eleven", "eleven"),
        ("dont", "don't"),
        ("couldntve", "couldntve"),
        ("couldnt've", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("twas", "'twas"),
        ("its", "its"),
        ("wifi/lan", "wifi lan"),
        ("wifi / lan", "wifi lan"),
        ("t-shirt", "t shirt"),
        ("left, right", "left right"),
        ("1,000", "1000"),
        ("1,000-2,000", "10002000"),
        ("3.5", "3.5"),
        ("u.s.", "us"),
        ("end.", "end"),
        ("  so   much  ", "so much"),
        ("", ""),
    ],
)
def test_spelling_is_evened_as_the_official_evaluation_does(text: str, expected: str) -> None:
    assert evened(text) == expected


def test_every_contraction_is_reached_from_what_lacks_an_apostrophe() -> None:
    assert len(CONTRACTIONS) == 114  # the official ones that lower-case words can meet
    for found, mended in CONTRACTIONS.items():
        assert found.replace("'", "") == mended.replace("'", "")
        assert found != mended
