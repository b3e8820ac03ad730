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


class PixelScale(NamedTuple):
    """How the image processor normalised: ``(pixel - mean) / std``, each ``(3,)``."""

    mean: Tensor
    std: Tensor


def cell_counts(grid_thw_I3: Tensor, merge: int) -> list[int]:
    """Cells of each image: the language model's tokens at full resolution."""
    return [int(t * h * w) // merge**2 for t, h, w in grid_thw_I3.tolist()]


def fold_patches(
    patches: Tensor, grid_hw: tuple[int, int], merge: int, scale: PixelScale
) -> Tensor:
    """Undo the image processor: patches back into images of one size.

    Args:
        patches: ``(I * h * w, 3 * 2 * p * p)`` in merge-block order; both time steps are equal
            in a still, so the first is taken.
        grid_hw: rows and columns of patches.
        merge: patches along one side of a cell.
        scale: what the processor normalised with.

    Returns:
        RGB ``(I, 3, h * p, w * p)`` fp32 in [0, 1].
    """
    rows, columns = grid_hw
    side = int((patches.shape[-1] // 6) ** 0.5)
    blocks = patches.float().view(
        -1, rows // merge, columns // merge, merge, merge, 3, 2, side, side
    )[:, :, :, :, :, :, 0]
    images = blocks.permute(0, 5, 1, 3, 6, 2, 4, 7).reshape(-1, 3, rows * side, columns * side)
    return (images * scale.std.view(3, 1, 1) + scale.mean.view(3, 1, 1)).clamp(0, 1)


def unfold_patches(images_I3hw: Tensor, side: int, merge: int, scale: PixelScale) -> Tensor:
    """What the image processor makes of images in [0, 1] whose size needs no change."""
    count, _, height, width = images_I3hw.shape
    normal = (images_I3hw - scale.mean.view(3, 1, 1)) / scale.std.view(3, 1, 1)
    blocks = normal.view(
        count, 3, height // side // merge, merge, side, width // side // merge, merge, side
    )
    still = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)  # one time step ...
    return still.expand(-1, -1, -1, -1, -1, -1, 2, -1, -1).reshape(-1, 6 * side * side)  # ... two


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
    """Encode every cell, then keep the allocated ones: cheaper for the language model only."""
    pooled, deepstack = encode_all(visual, patches, grid_thw_I3)
    kept = packed_cells(grid_thw_I3, visual.spatial_merge_size, allocations)
    return VisualTokens(pooled[kept], [level[kept] for level in deepstack])


def encode_before(
    visual: Qwen3VLVisionModel,
    patches: Tensor,
    grid_thw_I3: Tensor,
    allocations: Sequence[Allocation],
) -> VisualTokens:
    """Encode only the allocated cells, at their true places: cheaper for the vision tower too."""
    merge = visual.spatial_merge_size
    kept = packed_cells(grid_thw_I3, merge, allocations)
    if not len(kept):
        nothing = patches.new_zeros(0, visual.config.out_hidden_size, dtype=visual.dtype)
        return VisualTokens(nothing, [nothing for _ in visual.deepstack_visual_indexes])
    within = torch.arange(merge**2, device=kept.device)
    coordinates = torch.cat([patch_coordinates(a, merge) for a in allocations])
    per_image = torch.tensor([len(a.positions) for a in allocations], device=patches.device)
    grid_hw = grid_thw_I3[:, 1:].repeat_interleave(per_image * merge**2, dim=0)
    taps, weights = position_taps(coordinates, grid_hw, visual.num_grid_per_side)
    segments = (per_image[per_image > 0] * merge**2).cumsum(0)
    output = visual(
        patches[(kept[:, None] * merge**2 + within).flatten()].to(visual.dtype),
        grid_thw=None,
        cu_seqlens=F.pad(segments, (1, 0)).int(),
        position_ids=coordinates,
        interp_indices=taps,
        interp_weights=weights,
        return_dict=True,
    )
    return VisualTokens(output.pooler_output, list(output.deepstack_features))


def packed_cells(grid_thw_I3: Tensor, merge: int, allocations: Sequence[Allocation]) -> Tensor:
    """Indices of the kept cells among the cells of all images, ascending."""
    kept, offset = [], 0
    for allocation, count in zip(allocations, cell_counts(grid_thw_I3, merge), strict=True):
        kept.append(allocation.cells + offset)
        offset += count
    return torch.cat(kept)


def patch_coordinates(allocation: Allocation, merge: int) -> Tensor:
    """Row and column of each token's patches in the full patch grid ``(K * merge**2, 2)``.

    Whole numbers for tokens of one cell; long where all are, because the tower's rotary
    embedding takes either.
    """
    sub = torch.arange(merge, device=allocation.positions.device)
    offsets = torch.cartesian_prod(sub, sub)[None] - (merge - 1) / 2
    centres = merge * (allocation.positions[:, None] + 0.5) - 0.5
    scale = (2.0**allocation.levels)[:, None, None]
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
