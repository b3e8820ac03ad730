"""Detail channels: how much is going on inside a cell."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_arrcoc.relevance.textures.picture import (
    CELL_PX,
    Picture,
    blur,
    cell_spread,
    cell_view,
    per_cell,
)

LEVELS = 32  # of luma; a cell's 1024 pixels fill them well
FINE_SIGMA_PX, COARSE_SIGMA_PX = 2.0, 8.0


def detail(picture: Picture) -> dict[str, Tensor]:
    """Entropy, and what blurs of two widths take and leave."""
    luma = picture.luma_Ihw
    fine = blur(luma[:, None], FINE_SIGMA_PX)[:, 0]
    down, across = (blurred_means(luma, axis, COARSE_SIGMA_PX) for axis in (1, 2))
    return {
        "high_pass": per_cell((luma - fine).abs()),
        "low_pass": down @ luma @ across.T,
        "entropy": entropy(luma),
    }


def blurred_means(luma_Ihw: Tensor, axis: int, sigma: float) -> Tensor:
    """What each pixel of an axis weighs in the means of the blurred cells: ``(H, h)``.

    A blur as wide as this, followed by a mean, is cheaper as one matrix for either axis than
    pixel by pixel. Cut off at two sigma, border pixels repeated, as `blur` does.
    """
    side, reach = luma_Ihw.shape[axis], round(2 * sigma)
    taps = torch.arange(-reach, reach + 1, device=luma_Ihw.device)
    weight = (-0.5 * (taps / sigma).square()).exp()
    source = (torch.arange(side, device=luma_Ihw.device)[:, None] + taps).clamp(0, side - 1)
    share = (weight / weight.sum() / CELL_PX).expand_as(source).reshape(side // CELL_PX, -1)
    means = torch.zeros(side // CELL_PX, side, device=luma_Ihw.device)
    return means.scatter_add_(1, source.reshape_as(share), share)


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
    level = cell_view(level) + LEVELS * cell
    counts = torch.bincount(level.flatten(), minlength=LEVELS * cell.numel())
    share = counts.view(*cell.shape[:2], -1, LEVELS) / CELL_PX**2
    return (-torch.xlogy(share, share).sum(-1) / math.log(LEVELS)).clamp(min=0)
