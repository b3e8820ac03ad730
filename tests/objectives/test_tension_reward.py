"""Compress and focus learn from how well tokens chosen by them answer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_arrcoc import ArrCocQwen3VL
from lightning_arrcoc.objectives import AttributionDistillation, TensionReward
from lightning_arrcoc.objectives.lesson import packed_turns
from lightning_arrcoc.objectives.tension_reward import Decided, with_tensions
from lightning_arrcoc.relevance import FixedTensions, ImageRelevance

ASKED = (("Which digit is red?", "7"), ("Which digit is blue?", "3"))


def batch_of(encode: Any, picture: Any) -> dict[str, Any]:
    batch: dict[str, Any] = encode(
        ([picture(0)], ASKED), ([], ASKED), ([picture(1), picture(2)], ASKED[:1]), pack=True
    )
    return batch


def tried(reward: TensionReward, model: ArrCocQwen3VL, batch: dict[str, Any], number: int = 0):
    return reward(model, batch, model.ask_turns(**packed_turns(model, batch)), number)


def test_tensions_move_towards_what_is_rewarded(
    model: ArrCocQwen3VL, encode: Any, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reward of drawn compress less drawn focus, as if answers told."""
    batch = batch_of(encode, picture)
    reward = TensionReward(draws=8, every=1, seed=0)

    def told(model: Any, alone: Any, asked: Any, drawn_I2: Any, budgets: Any) -> Any:
        by_image = drawn_I2[:, 0] - drawn_I2[:, 1]
        return torch.stack([by_image[0], by_image[1], by_image[2:].mean()])

    monkeypatch.setattr(reward, "_reward", told)
    optimizer = torch.optim.Adam(model.arr_coc.balancer.parameters(), lr=0.02)
    for number in range(15):
        found = tried(reward, model, batch, number)
        assert found is not None
        optimizer.zero_grad()
        found[0].backward()
        optimizer.step()
    question = model.ask_turns(**packed_turns(model, batch))[0]
    _, compress, focus = question.found[0].tensions.tolist()
    assert compress > 0.85
    assert focus < 0.4


@pytest.mark.parametrize("edge", [1e-6, 1 - 1e-6])
def test_a_tension_at_the_edge_can_come_back(
    edge: float, model: ArrCocQwen3VL, encode: Any, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reward = TensionReward(every=1, draws=8, seed=0)
    monkeypatch.setattr(reward, "_reward", lambda *args: args[3][: len(args[2]), 0])
    batch = encode(([picture(0)], ASKED), pack=True)
    asked = model.ask_turns(**packed_turns(model, batch))
    tensions = torch.tensor([0.5, edge, 0.5], requires_grad=True)
    asked = [q._replace(found=[i._replace(tensions=tensions) for i in q.found]) for q in asked]
    found = reward(model, batch, asked, 0)
    assert found is not None
    found[0].backward()
    assert tensions.grad is not None
    assert tensions.grad[1] != 0


def test_equal_rewards_teach_nothing(
    model: ArrCocQwen3VL, encode: Any, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reward = TensionReward(every=1, seed=0)
    monkeypatch.setattr(reward, "_reward", lambda *args: torch.full((len(args[2]),), 0.7))
    found = tried(reward, model, batch_of(encode, picture))
    assert found is not None
    found[0].backward()
    gradient = model.arr_coc.balancer.policy_net[-1].bias.grad
    torch.testing.assert_close(gradient, torch.zeros(3), atol=1e-6, rtol=0)


def test_the_reward_is_the_probability_of_the_answer(
    model: ArrCocQwen3VL, encode: Any, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worked out once more by the model's own forward, one question at a time."""
    batch = encode(([picture(0)], ASKED), pack=True)
    reward = TensionReward(draws=2, every=1, budgets=(0.5, 0.5), seed=1)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    real = reward._reward

    def watched(*args: Any) -> torch.Tensor:
        seen.append((args[3], real(*args)))
        return seen[-1][1]

    monkeypatch.setattr(reward, "_reward", watched)
    found = tried(reward, model, batch)
    assert found is not None
    for drawn, rewards in seen:
        for (compress, focus), turn, given in zip(drawn.tolist(), ASKED, rewards, strict=True):
            model.arr_coc.balancer = FixedTensions(0.5, compress, focus)
            output = model(**encode(([picture(0)], [turn])), budget=0.5)
            answers = int((output.labels[:, 1:] != -100).sum())
            torch.testing.assert_close(given, (-output.loss * answers).exp(), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(found[1]["reward"], torch.stack([r for _, r in seen]).mean())


def test_what_tensions_are_made_from_learns_and_the_backbone_stays(
    model: ArrCocQwen3VL, encode: Any, picture: Any
) -> None:
    found = tried(TensionReward(every=1, seed=0), model, batch_of(encode, picture))
    assert found is not None
    found[0].backward()
    learned = model.arr_coc.balancer.policy_net[-1].bias.grad
    assert learned is not None
    assert learned[0] == 0  # exploit acts on relevance and is not drawn
    assert bool((learned[1:] != 0).all())
    assert all(parameter.grad is None for parameter in model.backbone.parameters())


def test_draws_follow_the_seed_and_the_batch(
    model: ArrCocQwen3VL, encode: Any, picture: Any
) -> None:
    batch = batch_of(encode, picture)
    losses = [
        tried(TensionReward(every=1, seed=seed), model, batch, number)[1]["reward"].item()
        for seed, number in ((0, 0), (0, 0), (1, 0), (0, 1))
    ]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


def test_it_is_tried_every_so_many_batches_and_where_tensions_can_learn(
    model: ArrCocQwen3VL, encode: Any, picture: Any
) -> None:
    batch = batch_of(encode, picture)
    reward = TensionReward(every=3)
    tries = [tried(reward, model, batch, number) is not None for number in range(4)]
    assert tries == [True, False, False, True]
    model.arr_coc.balancer = FixedTensions()
    assert tried(reward, model, batch) is None
    assert reward(model, encode(([], ASKED), pack=True), [], 0) is None


def test_beside_relevance_it_changes_the_loss_and_says_the_reward(
    model: ArrCocQwen3VL, encode: Any, picture: Any
) -> None:
    batch = batch_of(encode, picture)
    plain = AttributionDistillation()(model, batch, 0.0)
    both = AttributionDistillation(tensions=TensionReward(weight=1e6, seed=0))(model, batch, 0.0)
    assert both.logs.keys() - plain.logs.keys() == {"reward"}
    assert 0 <= float(both.logs["reward"]) <= 1
    assert both.loss.item() != plain.loss.item()


def test_unpacked_batches_are_tried_alike(model: ArrCocQwen3VL, encode: Any, picture: Any) -> None:
    row = ([picture(0)], ASKED[:1])
    reward = TensionReward(every=1, seed=0)
    packed, plain = (tried(reward, model, encode(row, pack=pack)) for pack in (True, False))
    torch.testing.assert_close(packed[1]["reward"], plain[1]["reward"], atol=1e-6, rtol=1e-4)


def test_tensions_that_are_drawn_leave_exploit_alone() -> None:
    image = ImageRelevance(torch.zeros(2, 2), torch.tensor([0.3, 0.5, 0.5], requires_grad=True))
    drawn = with_tensions(image, torch.tensor([0.1, 0.9]))
    torch.testing.assert_close(drawn.tensions, torch.tensor([0.3, 0.1, 0.9]))
    assert not drawn.tensions.requires_grad


def test_decisions_are_handed_out_in_order() -> None:
    one, two = [object()], [object(), object()]
    decided = Decided([one, two])  # type: ignore[list-item]
    assert decided.allocator([], 0.1) is one
    assert decided.allocator([], None) is two


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"samples": 0}, "samples=0; expected 1 or more"),
        ({"draws": 1}, "draws=1; expected 2 or more"),
        ({"every": 0}, "every=0"),
        ({"seed": -1}, "seed=-1"),
        ({"spread": 0.0}, "spread=0.0; expected a number above 0"),
        ({"weight": float("nan")}, "weight=nan"),
        ({"budgets": (0.3, 0.1)}, "a smallest and a largest share"),
        ({"budgets": (0.0, 0.1)}, "a smallest and a largest share"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        TensionReward(**setting)
