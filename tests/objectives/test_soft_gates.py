"""Soft gates answer through all tokens, and an open gate costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_arrcoc import ArrCocQwen3VL
from lightning_arrcoc.objectives import SoftGates, Teacher

ASKED = (("Which digit is red?", "7"), ("Which digit is blue?", "3"), ("How many?", "4"))


def test_soft_gates_answer_through_gates_and_punish_open_ones(
    model: ArrCocQwen3VL, encode: Any, picture: Any
) -> None:
    batch = encode(([picture(0)], ASKED[:1]))
    output = model(**batch, soft_sharpness=3.0)
    gate = (3.0 * output.relevance_logits[0]).sigmoid().mean()
    free = SoftGates((1.0, 5.0), gate_target=1.0)(model, batch, 0.5)
    tight = SoftGates((1.0, 5.0), gate_target=0.0, gate_weight=2.0)(model, batch, 0.5)
    torch.testing.assert_close(free.loss, output.loss)
    torch.testing.assert_close(tight.loss - free.loss, 2.0 * gate)
    torch.testing.assert_close(free.logs["gate"], gate)
    torch.testing.assert_close(free.logs["answer"], output.loss.detach())
    assert "divergence" not in free.logs
    tight.loss.backward()


def test_a_teachers_answer_can_be_weighed_in(
    model: ArrCocQwen3VL, encode: Any, picture: Any
) -> None:
    batch = encode(([picture(0)], ASKED[:1]), ([picture(1)], ASKED[1:2]))
    alone = SoftGates(teacher_weight=0.0)(model, batch, 0.5)
    taught = SoftGates(teacher_weight=0.5)(model, batch, 0.5)
    assert float(taught.logs["divergence"]) > 0
    torch.testing.assert_close(taught.loss - alone.loss, 0.5 * taught.logs["divergence"])


def test_open_gates_answer_as_the_teacher_does(
    model: ArrCocQwen3VL, encode: Any, picture: Any
) -> None:
    """log sigmoid(100 x) is 0 where relevance is well above one half."""
    with torch.no_grad():
        for scorer in (model.arr_coc.knowing.info_scorer, model.arr_coc.knowing.persp_scorer):
            scorer.residual[-1].bias.fill_(50.0)
    batch = encode(([picture(0)], ASKED), pack=True)
    lesson = SoftGates((100.0, 100.0), teacher_weight=1.0)(model, batch, 0.0)
    assert float(lesson.logs["divergence"]) == pytest.approx(0, abs=1e-5)


def test_packed_turns_have_gates_each_of_its_own(
    model: ArrCocQwen3VL, encode: Any, picture: Any
) -> None:
    packed = SoftGates(teacher_weight=0.5)(model, encode(([picture(0)], ASKED), pack=True), 0.5)
    rows = [([picture(0)], [asked]) for asked in ASKED]
    single = SoftGates(teacher_weight=0.5)(model, encode(*rows), 0.5)
    torch.testing.assert_close(packed.loss, single.loss, atol=1e-5, rtol=1e-5)


def test_text_alone_teaches_soft_gates_nothing(model: ArrCocQwen3VL, encode: Any) -> None:
    lesson = SoftGates()(model, encode(([], ASKED[:1])), 0.0)
    lesson.loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.arr_coc.parameters())


def test_without_weight_no_teacher_is_asked(
    model: ArrCocQwen3VL, encode: Any, picture: Any
) -> None:
    teacher = Teacher()
    SoftGates(teacher_weight=0.0, teacher=teacher)(model, encode(([picture(0)], ASKED[:1])), 0.0)
    assert teacher.full_passes == 0


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="teacher_weight=-1; expected 0 or more"):
        SoftGates(teacher_weight=-1)
