"""Detail channels: how much is going on inside a cell."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_arrcoc.relevance.textures.picture import (
    CELL_PX,
    STEP_PX,
    Picture,
    blur,
    cell_pixels,
    per_cell,
)

LEVELS = 32  # of luma; a cell's 1024 pixels fill them well
FINE_SIGMA_PX, COARSE_SIGMA_PX = 2.0, 8.0


def detail(picture: Picture) -> dict[str, Tensor]:
    """Entropy, and what blurs of two widths take and leave."""
    luma = picture.luma_Ihw
    fine = blur(luma[:, None], FINE_SIGMA_PX)[:, 0]
    small = F.avg_pool2d(luma[:, None], STEP_PX)
    coarse = blur(small, COARSE_SIGMA_PX / STEP_PX)[:, 0]
    return {
        "high_pass": per_cell((luma - fine).abs()),
        "low_pass": per_cell(coarse, CELL_PX // STEP_PX),
        "entropy": entropy(luma),
    }


def contrast(picture: Picture) -> dict[str, Tensor]:
    """Twice the standard deviation inside each cell."""
    # Not the mean of squares less the squared mean: that leaves rounding as contrast.
    return {"contrast": 2 * cell_pixels(picture.luma_Ihw).std((-2, -1), correction=0)}


def entropy(luma_Ihw: Tensor) -> Tensor:
    """Shannon entropy of each cell's luma levels over its most, in [0, 1]."""
    count, rows, columns = luma_Ihw.shape[0], *cell_pixels(luma_Ihw).shape[1:3]
    level = (cell_pixels(luma_Ihw) * LEVELS).long().clamp(0, LEVELS - 1)
    level = level.reshape(count * rows * columns, -1)
    first = LEVELS * torch.arange(len(level), device=level.device)[:, None]
    counts = torch.bincount((level + first).flatten(), minlength=LEVELS * len(level))
    share = counts.view(-1, LEVELS) / level.shape[1]
    bits = -torch.xlogy(share, share).sum(1) / math.log(LEVELS)
    return bits.view(count, rows, columns).clamp(min=0)
