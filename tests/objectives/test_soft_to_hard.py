"""One run: gates that close, and then the choice itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_arrcoc import ArrCocQwen3VL
from lightning_arrcoc.objectives import HardChoice, SoftGates, SoftToHard

ASKED = (("Which digit is red?", "7"),)


def test_gates_are_sharp_when_the_choice_becomes_hard(
    model: ArrCocQwen3VL, encode: Any, picture: Any
) -> None:
    batch = encode(([picture(0)], ASKED))
    both = SoftToHard(SoftGates((1.0, 5.0)), HardChoice((0.5, 0.5)), hard_from=0.8)
    half, late, hard = (both(model, batch, progress) for progress in (0.4, 0.7999999, 0.8))
    torch.testing.assert_close(half.loss, SoftGates((1.0, 5.0))(model, batch, 0.5).loss)
    torch.testing.assert_close(late.loss, SoftGates((1.0, 5.0))(model, batch, 1.0).loss)
    torch.testing.assert_close(hard.loss, HardChoice((0.5, 0.5))(model, batch, 0.0).loss)
    assert [float(lesson.logs["hard"]) for lesson in (half, late, hard)] == [0, 0, 1]


@pytest.mark.parametrize(("hard_from", "hard"), [(0.0, 1.0), (1.0, 0.0)])
def test_either_may_have_the_whole_run(
    model: ArrCocQwen3VL, encode: Any, picture: Any, hard_from: float, hard: float
) -> None:
    lesson = SoftToHard(hard_from=hard_from)(model, encode(([picture(0)], ASKED)), 0.0)
    assert float(lesson.logs["hard"]) == hard


def test_what_the_soft_phase_asked_the_hard_one_knows(
    model: ArrCocQwen3VL, encode: Any, picture: Any
) -> None:
    batch = encode(([picture(0)], ASKED))
    both = SoftToHard(SoftGates(teacher_weight=0.5), HardChoice(), hard_from=0.5)
    for progress in (0.0, 0.5, 0.9):
        assert float(both(model, batch, progress).logs["divergence"]) > 0
    assert both.soft.teacher is both.hard.teacher
    assert both.hard.teacher.full_passes == 1


def test_a_resumed_run_draws_on_where_it_was() -> None:
    first, resumed = (SoftToHard(hard=HardChoice(seed=1)) for _ in range(2))
    for _ in range(3):
        first.hard.draw()
    resumed.load_state_dict(first.state_dict())
    assert resumed.hard.draw() == first.hard.draw()


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="expected a share of the run"):
        SoftToHard(hard_from=share)
