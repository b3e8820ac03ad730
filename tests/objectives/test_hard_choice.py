"""The hard choice answers from a random number of tokens, and listens to the full answer."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything

from lightning_arrcoc import ArrCocQwen3VL
from lightning_arrcoc.objectives import HardChoice, Teacher

ASKED = (("Which digit is red?", "7"), ("Which digit is blue?", "3"), ("How many?", "4"))


def test_the_loss_is_that_of_the_chosen_tokens_and_of_the_full_answer(
    model: ArrCocQwen3VL, encode: Any, picture: Any
) -> None:
    """Worked out once more, from the two answers themselves."""
    batch = encode(([picture(0)], ASKED[:1]), ([picture(1, (96, 96))], ASKED[1:2]))
    lesson = HardChoice((0.5, 0.5), teacher_weight=0.5, teacher=Teacher(top=10**6))(model, batch, 0)
    chosen = model(**batch, budget=0.5)
    model.budget = 1.0
    full = model(**batch)
    at, at_full = (o.labels[:, 1:] != -100 for o in (chosen, full))
    student = chosen.logits[:, :-1][at].log_softmax(-1)
    teacher = full.logits[:, :-1][at_full].softmax(-1)
    divergence = torch.nn.functional.kl_div(student, teacher, reduction="batchmean")
    torch.testing.assert_close(lesson.loss, chosen.loss + 0.5 * divergence, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(lesson.logs["divergence"], divergence.detach(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(lesson.logs["answer"], chosen.loss.detach())
    assert float(lesson.logs["kept"]) == pytest.approx((6 + 4) / 2)
    assert float(lesson.logs["budget"]) == 0.5
    assert {"tension_exploit", "accuracy"} <= lesson.logs.keys()


def test_all_tokens_answer_as_the_teacher_does(
    model: ArrCocQwen3VL, encode: Any, picture: Any
) -> None:
    lesson = HardChoice((1.0, 1.0))(model, encode(([picture(0)], ASKED), pack=True), 0.0)
    assert float(lesson.logs["divergence"]) == pytest.approx(0, abs=1e-6)


def test_it_teaches_arr_coc_and_leaves_the_backbone_alone(
    model: ArrCocQwen3VL, encode: Any, picture: Any
) -> None:
    HardChoice()(model, encode(([picture(0)], ASKED), pack=True), 0.0).loss.backward()
    for name in ("knowing.info_scorer", "knowing.partic_scorer", "balancer"):
        grads = [p.grad for p in model.arr_coc.get_submodule(name).parameters()]
        assert any(grad is not None and bool(grad.any()) for grad in grads), name
    assert all(parameter.grad is None for parameter in model.backbone.parameters())


def test_packed_turns_choose_each_by_itself(
    model: ArrCocQwen3VL, encode: Any, picture: Any
) -> None:
    packed = HardChoice((0.25, 0.25))(model, encode(([picture(0)], ASKED), pack=True), 0.0)
    single = HardChoice((0.25, 0.25))(
        model, encode(*(([picture(0)], [asked]) for asked in ASKED)), 0.0
    )
    torch.testing.assert_close(packed.loss, single.loss, atol=1e-5, rtol=1e-5)


def test_without_weight_no_teacher_is_asked(
    model: ArrCocQwen3VL, encode: Any, picture: Any
) -> None:
    objective = HardChoice((0.5, 0.5), teacher_weight=0.0)
    batch = encode(([picture(0)], ASKED[:1]))
    lesson = objective(model, batch, 0.0)
    assert objective.teacher.full_passes == 0
    assert "divergence" not in lesson.logs
    torch.testing.assert_close(lesson.loss, model(**batch, budget=0.5).loss)


def test_text_alone_teaches_arr_coc_nothing_but_keeps_every_gradient(
    model: ArrCocQwen3VL, encode: Any
) -> None:
    """Its answers count in the loss as they do beside pictures."""
    lesson = HardChoice()(model, encode(([], ASKED[:1])), 0.0)
    assert lesson.loss.item() > 0
    lesson.loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.arr_coc.parameters())


# ------------------------------------------------------------------------------ the budgets


def test_few_and_many_tokens_are_as_frequent() -> None:
    objective = HardChoice((0.05, 0.2), seed=0)
    drawn = torch.tensor([objective.draw() for _ in range(400)])
    assert 0.05 <= float(drawn.min()) < 0.055
    assert 0.19 < float(drawn.max()) <= 0.2
    assert float(drawn.log().mean()) == pytest.approx(math.log(0.1), abs=0.05)
    assert float((drawn < 0.1).float().mean()) == pytest.approx(0.5, abs=0.07)


def test_budgets_follow_the_seed_of_the_run() -> None:
    def draws() -> list[float]:
        objective = HardChoice()
        return [objective.draw() for _ in range(5)]

    found = []
    for seed in (1, 1, 2):
        seed_everything(seed, verbose=False)
        found.append(draws())
    assert found[0] == found[1] != found[2]


def test_budgets_depend_on_no_other_randomness() -> None:
    first, second = HardChoice(seed=3), HardChoice(seed=3)
    drawn = []
    for _ in range(3):
        torch.rand(7)
        drawn.append(first.draw())
    assert drawn == [second.draw() for _ in range(3)]


def test_a_resumed_run_draws_on_where_it_was() -> None:
    whole = HardChoice(seed=3)
    expected = [whole.draw() for _ in range(6)][4:]
    first, resumed = HardChoice(seed=3), HardChoice(seed=3)
    for _ in range(4):
        first.draw()
    resumed.load_state_dict(first.state_dict())
    assert [resumed.draw() for _ in range(2)] == expected


@pytest.mark.parametrize("budgets", [(0.0, 0.5), (0.5, 0.2), (0.5, 1.5), (float("nan"), 1.0)])
def test_budgets_that_are_none_are_refused(budgets: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="expected a smallest and a largest share"):
        HardChoice(budgets)


def test_a_negative_weight_or_seed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"teacher_weight=-0\.5; expected 0 or more"):
        HardChoice(teacher_weight=-0.5)
    with pytest.raises(ValueError, match="seed=-1; expected 0 or more"):
        HardChoice(seed=-1)
