"""Figures that several objectives log."""

from __future__ import annotations

import torch

from lightning_arrcoc import ArrCocQwen3VL
from lightning_arrcoc.objectives import accuracy
from lightning_arrcoc.objectives.lesson import nothing_to_learn


def test_accuracy_counts_answer_tokens_and_not_the_end_of_the_turn() -> None:
    end = 9
    labels = torch.tensor([[-100, -100, 3, 4, end]])
    right = torch.nn.functional.one_hot(torch.tensor([[0, 3, 4, end, 0]]), 10).float()
    wrong = torch.nn.functional.one_hot(torch.tensor([[0, 3, 5, end, 0]]), 10).float()
    assert float(accuracy(right, labels, [end])) == 1
    assert float(accuracy(wrong, labels, [end])) == 0.5


def test_nothing_to_learn_still_gives_all_that_is_trained_a_gradient(model: ArrCocQwen3VL) -> None:
    norm = model.backbone.model.language_model.norm
    norm.requires_grad_(True)
    loss = nothing_to_learn(model)
    assert loss.item() == 0
    loss.backward()
    trained = [*model.arr_coc.parameters(), *norm.parameters()]
    assert all(p.grad is not None and not p.grad.any() for p in trained)
    assert sum(p.grad is not None for p in model.parameters()) == len(trained)
