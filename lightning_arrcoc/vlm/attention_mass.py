"""Where the attention of a backbone goes that sees every token."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen3VLForConditionalGeneration

from lightning_arrcoc.vlm.chat import IGNORED_LABEL
from lightning_arrcoc.vlm.packing import SHARED, forward_packed


@torch.no_grad()
def attend_answers(
    backbone: Qwen3VLForConditionalGeneration,
    *,
    input_ids: Tensor,
    turns: Tensor,
    pixel_values: Tensor,
    image_grid_thw: Tensor,
    labels: Tensor,
    key_bias: Tensor | None = None,
) -> Tensor:
    """Share out each turn's attention among the visual tokens.

    Attention is the mean over layers, heads and the positions that predict the turn's answer.

    Args:
        input_ids, turns, pixel_values, image_grid_thw, labels, key_bias: as for `forward_packed`.

    Returns:
        Shares ``(B, T, L)``, as `attribute_answers` has them.

    Raises:
        ValueError: the backbone computes attention in a way that takes no mask.
    """
    before = backbone.config._attn_implementation  # private by name; the public setter sets it
    backbone.set_attn_implementation("eager")  # the only one that shows its weights
    try:
        output = forward_packed(
            backbone,
            input_ids=input_ids,
            turns=turns,
            pixel_values=pixel_values,
            image_grid_thw=image_grid_thw,
            key_bias=key_bias,
            output_attentions=True,
        )
    finally:
        backbone.set_attn_implementation(before)
    weights_BLL = torch.stack([layer.float().mean(1) for layer in output.attentions]).mean(0)
    answering_BL = F.pad(labels[:, 1:] != IGNORED_LABEL, (0, 1))
    numbers = torch.arange(1, max(1, int(turns.max())) + 1, device=turns.device)
    own_BTL = (turns[:, None] == numbers[:, None]) & answering_BL[:, None]
    visual_BL = (input_ids == backbone.config.image_token_id) & (turns == SHARED)
    mass_BTL = (own_BTL.float() @ weights_BLL) * visual_BL[:, None]
    whole_BT1 = mass_BTL.sum(-1, keepdim=True)
    return torch.where(whole_BT1 > 0, mass_BTL / whole_BT1, 0.0)
