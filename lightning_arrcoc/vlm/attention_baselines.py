"""Relevance by the backbone's own attention, as other methods take it; to be measured against.

Both look at the whole image first, so they save nothing before the vision tower. Their maps go to
`relevance.baselines.Given`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

from lightning_arrcoc.vlm.covering import cell_counts

RECORDED = "lightning_arrcoc_recorded"
FASTV_LAYER = 2  # counted from 1


@torch.no_grad()
def visionzip_maps(
    backbone: Qwen3VLForConditionalGeneration, pixel_values: Tensor, image_grid_thw: Tensor
) -> list[Tensor]:
    """Attention that each cell receives inside the vision tower: ``(H, W)`` for each image.

    Source: S. Yang et al., "VisionZip: longer is better but not necessary in vision language
    models", CVPR 2025, section 3.2 (dominant tokens; without a class token, by the attention
    received from all others, in the last layer but one). Departures: a cell takes the mean of its
    patches; the remaining tokens are dropped, where the paper merges them into contextual ones.
    """
    visual = backbone.model.visual
    with recorded_attention(visual) as weights:
        visual(pixel_values.to(visual.dtype), grid_thw=image_grid_thw, return_dict=True)
    images = len(image_grid_thw)
    layer = weights[-2 * images : -images]  # one record an image and layer
    merge = int(visual.spatial_merge_size)
    maps = []
    for received_N, (_, rows, columns) in zip(layer, image_grid_thw.tolist(), strict=True):
        cells = received_N.view(-1, merge**2).mean(1)
        maps.append(cells.view(rows // merge, columns // merge))
    return maps


@torch.no_grad()
def fastv_maps(
    backbone: Qwen3VLForConditionalGeneration,
    input_ids: Tensor,
    attention_mask: Tensor,
    pixel_values: Tensor,
    image_grid_thw: Tensor,
) -> list[Tensor]:
    """Attention from the prompt's last token to each cell in the second layer of the LM.

    Args:
        input_ids, attention_mask: prompts padded on the left ``(B, L)``, one image each.
        pixel_values, image_grid_thw: as the processor returns them.

    Returns:
        ``(H, W)`` for each image, means over heads.

    Source: L. Chen et al., "An image is worth 1/2 tokens after layer 2", ECCV 2024, section 4.1.
    Departures: the choice is made once and the pruned prompt is read anew, so that the layers
    before the choice see the chosen tokens only; accuracy can be compared, speed cannot.
    """
    visual_BL = (input_ids == backbone.config.image_token_id) & attention_mask.bool()
    before = backbone.config._attn_implementation  # private by name; the public setter sets it
    backbone.set_attn_implementation("eager")
    try:
        output = backbone(
            input_ids=input_ids,
            attention_mask=attention_mask,
            pixel_values=pixel_values,
            image_grid_thw=image_grid_thw,
            mm_token_type_ids=visual_BL.int(),
            output_attentions=True,
        )
    finally:
        backbone.set_attn_implementation(before)
    from_last_BL = output.attentions[FASTV_LAYER - 1][:, :, -1].mean(1)
    merge = int(backbone.model.visual.spatial_merge_size)
    chunks = torch.split(from_last_BL[visual_BL], cell_counts(image_grid_thw, merge))
    return [
        chunk.view(rows // merge, columns // merge)
        for chunk, (_, rows, columns) in zip(chunks, image_grid_thw.tolist(), strict=True)
    ]


@contextmanager
def recorded_attention(tower: Qwen3VLVisionModel) -> Iterator[list[Tensor]]:
    """Collect, call by call, the attention every key receives: means over heads and queries."""
    records: list[Tensor] = []

    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        weights_BHQK = (query @ key.transpose(-1, -2) * scaling).float().softmax(-1)
        records.append(weights_BHQK.mean((0, 1, 2)))
        return (weights_BHQK.to(value.dtype) @ value).transpose(1, 2).contiguous(), weights_BHQK

    AttentionInterface.register(RECORDED, attend)
    before = tower.config._attn_implementation  # private by name; the public setter sets it
    tower.set_attn_implementation(RECORDED)
    try:
        yield records
    finally:
        tower.set_attn_implementation(before)
