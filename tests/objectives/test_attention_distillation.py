"""Attention as a target: the same lesson from other shares."""

from __future__ import annotations

from typing import Any

import torch

from lightning_arrcoc import ArrCocQwen3VL
from lightning_arrcoc.objectives import AttentionDistillation, AttributionDistillation, divergence
from lightning_arrcoc.vlm.attention_mass import attend_answers

ASKED = (("Which digit is red?", "7"), ("Which digit is blue?", "3"))


def test_the_loss_compares_relevance_with_attention(
    model: ArrCocQwen3VL, encode: Any, picture: Any
) -> None:
    model.arr_coc.allocator.temperature = 0.5
    batch = encode(([picture(0)], ASKED), pack=True)
    lesson = AttentionDistillation()(model, batch, 0.0)
    used = ("input_ids", "turns", "pixel_values", "image_grid_thw", "labels")
    shares = attend_answers(model.backbone, **{key: batch[key] for key in used})
    visual = batch["input_ids"][0] == model.backbone.config.image_token_id
    temperature = model.arr_coc.allocator.temperature
    losses = []
    for turn, asked in enumerate(ASKED):
        logits = model(**encode(([picture(0)], [asked]))).relevance_logits[0].flatten()
        losses.append(divergence(shares[0, turn, visual], logits / temperature))
    torch.testing.assert_close(lesson.loss, torch.stack(losses).mean(), atol=1e-4, rtol=1e-4)
    other = AttributionDistillation(faded_turns=0)(model, batch, 0.0)
    assert lesson.logs.keys() == other.logs.keys()
    assert abs(lesson.loss.item() - other.loss.item()) > 1e-3


def test_it_teaches_arr_coc(model: ArrCocQwen3VL, encode: Any, picture: Any) -> None:
    AttentionDistillation()(model, encode(([picture(0)], ASKED), pack=True), 0.0).loss.backward()
    assert any(p.grad is not None and p.grad.any() for p in model.arr_coc.parameters())
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
