"""Detail channels: how much is going on inside a cell."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_arrcoc.relevance.textures.picture import (
    CELL_PX,
    STEP_PX,
    Picture,
    block_mean,
    blur,
    cell_spread,
    per_cell,
)

LEVELS = 32  # of luma; a cell's 1024 pixels fill them well
FINE_SIGMA_PX, COARSE_SIGMA_PX = 2.0, 8.0


def detail(picture: Picture) -> dict[str, Tensor]:
    """Entropy, and what blurs of two widths take and leave."""
    luma = picture.luma_Ihw
    fine = blur(luma[:, None], FINE_SIGMA_PX)[:, 0]
    small = block_mean(luma[:, None], STEP_PX)
    coarse = blur(small, COARSE_SIGMA_PX / STEP_PX)[:, 0]
    return {
        "high_pass": per_cell((luma - fine).abs()),
        "low_pass": per_cell(coarse, CELL_PX // STEP_PX),
        "entropy": entropy(luma),
    }


def contrast(picture: Picture) -> dict[str, Tensor]:
    """Twice the standard deviation inside each cell."""
    return {"contrast": 2 * cell_spread(picture.luma_Ihw).sqrt()}


def entropy(luma_Ihw: Tensor) -> Tensor:
    """Shannon entropy of each cell's luma levels over its most, in [0, 1]."""
    count, height, width = luma_Ihw.shape
    level = (luma_Ihw * LEVELS).clamp_(0, LEVELS - 1).to(torch.int32)
    cell = torch.arange(
        count * height * width // CELL_PX**2, device=level.device, dtype=torch.int32
    ).view(count, height // CELL_PX, 1, width // CELL_PX, 1)
    level = level.unflatten(2, (-1, CELL_PX)).unflatten(1, (-1, CELL_PX)) + LEVELS * cell
    counts = torch.bincount(level.flatten(), minlength=LEVELS * cell.numel())
    share = counts.view(*cell.shape[:2], -1, LEVELS) / CELL_PX**2
    return (-torch.xlogy(share, share).sum(-1) / math.log(LEVELS)).clamp(min=0)
