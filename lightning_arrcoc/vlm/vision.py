"""Qwen3-VL's vision tower on a chosen part of the cells, before or after its attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    BaseModelOutputWithDeepstackFeatures,
    Qwen3VLVisionModel,
)

from lightning_arrcoc.relevance import Allocation
from lightning_arrcoc.vlm.covering import covered_cells
from lightning_arrcoc.vlm.patches import downscaled_patches


class VisualTokens(NamedTuple):
    """Features of the kept tokens of all images, one after the other.

    Attributes:
        pooled: what enters the language model's input ``(K, D)``.
        deepstack: what is added after its first layers, each ``(K, D)``.
    """

    pooled: Tensor
    deepstack: list[Tensor]

    def gated(self, gate_K: Tensor) -> VisualTokens:
        """Scale every token's features."""
        gate = gate_K[:, None].to(self.pooled.dtype)
        return VisualTokens(self.pooled * gate, [level * gate for level in self.deepstack])

    def as_encoder_output(self, counts: Sequence[int]) -> dict[str, object]:
        """The form in which the stock model takes features made elsewhere.

        Build it anew for every call of generate(): beam search repeats it in place.
        """
        output = BaseModelOutputWithDeepstackFeatures(
            pooler_output=torch.split(self.pooled, list(counts)),
            deepstack_features=[torch.split(level, list(counts)) for level in self.deepstack],
        )
        return {"image": output}


def encode_all(visual: Qwen3VLVisionModel, patches: Tensor, grid_thw_I3: Tensor) -> VisualTokens:
    """Encode and keep every cell, as the stock model does."""
    output = visual(patches.to(visual.dtype), grid_thw=grid_thw_I3, return_dict=True)
    return VisualTokens(output.pooler_output, list(output.deepstack_features))


def encode_after(
    visual: Qwen3VLVisionModel,
    patches: Tensor,
    grid_thw_I3: Tensor,
    allocations: Sequence[Allocation],
) -> VisualTokens:
    """Encode every cell, then keep the allocated ones: cheaper for the language model only.

    A token of several cells is the mean of their features.
    """
    pooled, deepstack = encode_all(visual, patches, grid_thw_I3)
    covered = covered_cells(grid_thw_I3, visual.spatial_merge_size, allocations)
    return VisualTokens(covered.mean(pooled), [covered.mean(level) for level in deepstack])


def encode_before(
    visual: Qwen3VLVisionModel,
    patches: Tensor,
    grid_thw_I3: Tensor,
    allocations: Sequence[Allocation],
) -> VisualTokens:
    """Encode only the allocated cells, at their true places: cheaper for the vision tower too.

    A token of several cells is made of the patches of the image downscaled there.
    """
    merge = visual.spatial_merge_size
    covered = covered_cells(grid_thw_I3, merge, allocations)
    if not len(covered.counts):
        nothing = patches.new_zeros(0, visual.config.out_hidden_size, dtype=visual.dtype)
        return VisualTokens(nothing, [nothing for _ in visual.deepstack_visual_indexes])
    coordinates = torch.cat([patch_coordinates(a, merge) for a in allocations])
    per_image = torch.tensor([len(a.positions) for a in allocations], device=patches.device)
    grid_hw = grid_thw_I3[:, 1:].repeat_interleave(per_image * merge**2, dim=0)
    taps, weights = position_taps(coordinates, grid_hw, visual.num_grid_per_side)
    segments = (per_image[per_image > 0] * merge**2).cumsum(0)
    output = visual(
        downscaled_patches(patches, merge, covered).to(visual.dtype),
        grid_thw=None,
        cu_seqlens=F.pad(segments, (1, 0)).int(),
        position_ids=coordinates,
        interp_indices=taps,
        interp_weights=weights,
        return_dict=True,
    )
    return VisualTokens(output.pooler_output, list(output.deepstack_features))


def patch_coordinates(allocation: Allocation, merge: int) -> Tensor:
    """Row and column of each token's patches in the full patch grid ``(K * merge**2, 2)``.

    Whole numbers for tokens of one cell; long where all are, because the tower's rotary
    embedding takes either.
    """
    sub = torch.arange(merge, device=allocation.positions.device)
    offsets = torch.cartesian_prod(sub, sub)[None] - (merge - 1) / 2
    centres = merge * (allocation.positions[:, None] + 0.5) - 0.5
    boxes = allocation.boxes
    scale = (boxes[:, 2:] - boxes[:, :2])[:, None]
    coordinates = (centres + scale * offsets).flatten(0, 1)
    return coordinates if bool(allocation.levels.any()) else coordinates.long()


def position_taps(coordinates_N2: Tensor, grid_hw_N2: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Where the learned position grid is read for each patch, and how its taps are weighted.

    Bilinear with aligned corners, as the tower itself does for a whole grid.

    Args:
        coordinates_N2: row and column of each patch, fractions allowed.
        grid_hw_N2: rows and columns of the grid that each patch belongs to.
        side: rows, and columns, of the learned grid.

    Returns:
        Indices ``(N, 4)`` int64 into the flattened learned grid, and weights ``(N, 4)`` fp32.
    """
    source = coordinates_N2.float() * (side - 1) / (grid_hw_N2 - 1).clamp(min=1)
    source = source.clamp(0, side - 1)
    offsets = torch.arange(2, device=source.device)
    taps = source.floor().long()[..., None] + offsets  # (N, 2, 2): axis, lower and upper
    weights = (1 - (source[..., None] - taps).abs()).clamp(min=0)
    taps = taps.clamp(0, side - 1)
    indices = taps[:, 0, :, None] * side + taps[:, 1, None, :]
    products = weights[:, 0, :, None] * weights[:, 1, None, :]
    return indices.flatten(1), products.flatten(1)
