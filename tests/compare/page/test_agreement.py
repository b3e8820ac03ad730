"""Where contestants agree."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_arrcoc.compare.page.agreement import (
    by_answer,
    hint,
    kept_by,
    shared_cells,
)


def said(**answers: str) -> Any:
    return [SimpleNamespace(name=name, answer=answer) for name, answer in answers.items()]


def test_answers_are_alike_but_for_case_and_white_space() -> None:
    assert by_answer(said(a="No", b="yes", c=" no ")) == {"No": ["a", "c"], "yes": ["b"]}


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"a": "1"}, ""),
        ({"a": "1", "b": "1"}, "All agree. Lower the budget"),
        ({"full": "1", "b": "1"}, "All agree, also with all tokens"),
        ({"a": "1", "b": "2"}, "Ask “full” as well"),
        ({"full": "1", "b": "2", "c": "3"}, "With all tokens it is “1”, so look at what b and c"),
        ({"full": "1", "b": ""}, "b: “nothing”"),
    ],
)
def test_a_hint_says_what_to_look_at(answers: dict[str, str], words: str) -> None:
    found = hint(said(**answers))
    assert words in found
    assert bool(found) == bool(words)


def test_cells_are_counted_by_every_two() -> None:
    one = torch.tensor([[True, True], [False, False]])
    other = torch.tensor([[True, False], [True, False]])
    (shared,) = shared_cells({"one": one, "other": other})
    assert shared[:] == ("one", "other", 1, 3)
    assert shared.percent == 33
    assert kept_by({"one": one, "other": other}).tolist() == [[2, 1], [1, 0]]
