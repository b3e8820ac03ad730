"""What a backbone that sees every token reads its answers from."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from lightning_arrcoc.vlm.packing import SHARED, forward_packed


def attribute_answers(
    backbone: Qwen3VLForConditionalGeneration,
    *,
    input_ids: Tensor,
    turns: Tensor,
    pixel_values: Tensor,
    image_grid_thw: Tensor,
    labels: Tensor,
    key_bias: Tensor | None = None,
) -> Tensor:
    """Attribute each turn's answer to the visual tokens.

    A token's importance is how fast the loss changes with a gate on the attention towards it: one
    backward pass through the frozen language model for all turns, and none through the vision
    tower.

    Args:
        input_ids, turns, pixel_values, image_grid_thw, labels: as for `forward_packed`.
        key_bias: how far the gates are closed, in attention logits ``(B, T, L)``; None: all open.

    Returns:
        Shares ``(B, T, L)``, 0 away from visual tokens; they add up to 1 for each turn, or to 0
        for one without answer or image.

    Raises:
        ValueError: the backbone computes attention in a way that takes no mask.

    Source: P. Michel, O. Levy, G. Neubig, "Are Sixteen Heads Really Better than One?", NeurIPS
    2019, section 4.1 (importance as the absolute gradient of a mask variable). Departures: the
    masked are keys, not heads; each answer by itself, not in expectation over data.
    """
    visual_BL = (input_ids == backbone.config.image_token_id) & (turns == SHARED)
    if key_bias is None:
        count = max(1, int(turns.max()))
        key_bias = torch.zeros(len(turns), count, turns.shape[1], device=turns.device)
    with torch.enable_grad():
        gate_BTL = key_bias.detach().clone().requires_grad_(True)
        output = forward_packed(
            backbone,
            input_ids=input_ids,
            turns=turns,
            pixel_values=pixel_values,
            image_grid_thw=image_grid_thw,
            labels=labels,
            key_bias=gate_BTL,
        )
        (gradient_BTL,) = torch.autograd.grad(output.loss, gate_BTL)
    # In fp64, because a sure answer leaves gradients whose sum fp32 would lose.
    importance_BTL = gradient_BTL.abs().double() * visual_BL[:, None]
    whole_BT1 = importance_BTL.sum(-1, keepdim=True)
    shares_BTL = torch.where(whole_BT1 > 0, importance_BTL / whole_BT1, 0.0)
    return shares_BTL.float()
