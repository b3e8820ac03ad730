"""Many questions behind one image, each answered as if it were the only one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen3VLForConditionalGeneration
from transformers.modeling_outputs import CausalLMOutputWithPast

from lightning_arrcoc.vlm.covering import cell_counts
from lightning_arrcoc.vlm.loading import refuse_flash
from lightning_arrcoc.vlm.sequence import closed_entry
from lightning_arrcoc.vlm.vision import VisualTokens

SHARED, PADDING = 0, -1  # in `turns`, beside the numbers of turns, which start from 1


def forward_packed(
    backbone: Qwen3VLForConditionalGeneration,
    *,
    input_ids: Tensor,
    turns: Tensor,
    pixel_values: Tensor | None = None,
    image_grid_thw: Tensor | None = None,
    labels: Tensor | None = None,
    key_bias: Tensor | None = None,
    features: VisualTokens | None = None,
    **kwargs: Any,
) -> CausalLMOutputWithPast:
    """The stock model on packed questions: the image is read once, and no turn sees another.

    Args:
        input_ids: ``(B, L)``, images first.
        turns: to which turn a token belongs ``(B, L)``; 0 is seen by all of them, -1 is padding.
        pixel_values, image_grid_thw: as the processor returns them; None where there is no image.
        labels: next-token targets ``(B, L)``, -100 where there is none.
        key_bias: what each turn adds to its attention logits towards each token ``(B, T, L)``, the
            first turn first; -inf hides a token from a turn. Shared tokens see each other as ever.
        features: of all cells, made before by `encode_all`, instead of reading `pixel_values`.
        **kwargs: go to the stock model.

    Raises:
        ValueError: the backbone computes attention in a way that takes no mask.
    """
    refuse_flash(backbone, "Packed turns are kept apart by a mask")
    visual = (input_ids == backbone.config.image_token_id) & (turns == SHARED)
    mrope_3BL, _ = backbone.model.get_rope_index(
        input_ids,
        mm_token_type_ids=visual.int(),
        image_grid_thw=image_grid_thw,
        attention_mask=(turns != PADDING).long(),
    )
    text_BL = ((turns != PADDING).long().cumsum(1) - 1).clamp(min=0)
    positions_4BL = torch.cat([text_BL[None], mrope_3BL]) - tokens_between(turns)
    mask = packed_mask(turns, backbone.get_input_embeddings().weight.dtype)
    if key_bias is not None:
        mask = biased(mask, key_bias, turns)
    images: dict[str, Any] = {
        "pixel_values": pixel_values,
        "image_grid_thw": image_grid_thw,
        "mm_token_type_ids": visual.int(),
    }
    if features is not None and image_grid_thw is not None:
        merge = backbone.config.vision_config.spatial_merge_size
        counts = cell_counts(image_grid_thw, merge)
        images = {"mm_encoder_outputs": features.as_encoder_output(counts)}
    output: CausalLMOutputWithPast = backbone(
        input_ids=input_ids,
        attention_mask=mask,
        position_ids=positions_4BL,
        labels=labels,
        **images,
        **kwargs,
    )
    return output


def tokens_between(turns_BL: Tensor) -> Tensor:
    """Tokens of other turns that stand between the shared ones and a token's own turn."""
    column = torch.arange(turns_BL.shape[1], device=turns_BL.device).expand_as(turns_BL)
    begins = turns_BL.diff(dim=1, prepend=turns_BL[:, :1]) != 0
    own_begin = torch.where(begins, column, 0).cummax(1).values
    first_begin = torch.where(turns_BL == 1, column, turns_BL.shape[1]).amin(1, keepdim=True)
    return torch.where(turns_BL >= 1, own_begin - first_begin, 0)


def turns_of(input_ids_BL: Tensor, attention_mask_BL: Tensor, image_token: int) -> Tensor:
    """A plain batch marked like a packed one: all behind a row's last image is its only turn."""
    column = torch.arange(input_ids_BL.shape[1], device=input_ids_BL.device)
    real_BL = attention_mask_BL.bool()
    visual_BL = (input_ids_BL == image_token) & real_BL
    last_image_B1 = torch.where(visual_BL, column, -2).amax(1, keepdim=True)
    shared_BL = column <= last_image_B1 + 1  # with the marker that closes the image
    return torch.where(shared_BL, SHARED, 1).masked_fill(~real_BL, PADDING)


def biased(mask_B1LL: Tensor, key_bias_BTL: Tensor, turns_BL: Tensor) -> Tensor:
    """The mask with each turn's bias in the rows of its tokens."""
    own_row = turns_BL.clamp(min=SHARED)[..., None].expand(-1, -1, key_bias_BTL.shape[-1])
    bias_BLL = F.pad(key_bias_BTL, (0, 0, 1, 0)).gather(1, own_row)
    lowest = closed_entry(mask_B1LL.dtype)
    return (mask_B1LL + bias_BLL[:, None].to(mask_B1LL.dtype)).clamp(min=lowest)


def packed_mask(turns_BL: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive attention mask ``(B, 1, L, L)``: causal, towards shared tokens and the own turn."""
    length = turns_BL.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=turns_BL.device).tril()
    query, key = turns_BL[:, :, None], turns_BL[:, None, :]
    allowed_BLL = causal & ((key == SHARED) | ((key == query) & (key != PADDING)))
    mask = torch.zeros(allowed_BLL.shape, dtype=dtype, device=turns_BL.device)
    return mask.masked_fill(~allowed_BLL, closed_entry(dtype))[:, None]
