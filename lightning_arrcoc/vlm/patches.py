"""Patches as the image processor packs them: back into pixels, and out of pixels again."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_arrcoc.vlm.covering import CoveredCells


class PixelScale(NamedTuple):
    """How the image processor normalised: ``(pixel - mean) / std``, each ``(3,)``."""

    mean: Tensor
    std: Tensor


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


def downscaled_patches(patches: Tensor, merge: int, covered: CoveredCells) -> Tensor:
    """Patches of each token ``(K * merge**2, 1536)``, as if its cells were one.

    The pixels under a token are averaged down to the size of a cell. At the margin of an image
    whose cells do not tile a token may be wider than high, and is scaled so.
    """
    side = int((patches.shape[-1] // 6) ** 0.5)
    per_cell = patches.view(-1, merge**2, patches.shape[-1])
    starts_K = covered.counts.cumsum(0) - covered.counts
    made = per_cell[covered.cells[starts_K]]
    shapes_K2 = torch.stack([covered.counts // covered.columns, covered.columns], 1)
    for rows, columns in torch.unique(shapes_K2[covered.counts > 1], dim=0).tolist():
        alike = (shapes_K2 == shapes_K2.new_tensor([rows, columns])).all(1).nonzero()[:, 0]
        within = torch.arange(rows * columns, device=alike.device)
        cells = per_cell[covered.cells[starts_K[alike, None] + within]]
        # tokens, rows and columns of cells, of patches in a cell, colour and time, of pixels
        blocks = cells.view(-1, rows, columns, merge, merge, 6, side, side)
        pixels = blocks.permute(0, 5, 1, 3, 6, 2, 4, 7)
        pixels = pixels.reshape(-1, 6, rows * merge * side, columns * merge * side)
        small = F.avg_pool2d(pixels.float(), (rows, columns)).to(patches.dtype)
        parts = small.view(-1, 6, merge, side, merge, side).permute(0, 2, 4, 1, 3, 5)
        made[alike] = parts.reshape(-1, merge**2, patches.shape[-1])
    return made.flatten(0, 1)
