"""Salience channels: what stands out, and what looks written or bounded."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_arrcoc.relevance.textures.picture import (
    CELL_PX,
    STEP_PX,
    Picture,
    blur,
    per_cell,
)

SCALES = ((1.0, 4.0), (2.0, 8.0), (4.0, 16.0))  # centre, surround: sigma in steps of 4 px
STROKE = 5  # widest stroke that counts as text, in pixels of the image halved
EDGE = 0.1  # Sobel magnitude from which a pixel is an edge; chosen by us, a step of a tenth
FARTHEST_PX = 32


def salience(picture: Picture) -> dict[str, Tensor]:
    """How each cell stands out from its surround, at several scales."""
    lab = picture.small_lab_I3hw
    distances = [
        (blur(lab, centre) - blur(lab, surround)).square().sum(1).sqrt()
        for centre, surround in SCALES
    ]
    mean = torch.stack(distances).mean(0)
    return {"saliency": (per_cell(mean, CELL_PX // STEP_PX) / 100).clamp(max=1)}


def strokes(picture: Picture) -> dict[str, Tensor]:
    """How strongly thin strokes, dark or bright, stand against their ground.

    Source: the top-hat transform, J. Serra, Image Analysis and Mathematical Morphology, 1982,
    chapter XII; white and black, of which each pixel takes the stronger.
    """
    luma = F.avg_pool2d(picture.luma_Ihw[:, None], 2)
    opened = dilate(-dilate(-luma, STROKE), STROKE)
    closed = -dilate(-dilate(luma, STROKE), STROKE)
    hat = torch.maximum(luma - opened, closed - luma)[:, 0].clamp(min=0)
    return {"text": per_cell(hat, CELL_PX // 2)}


def dilate(maps_I1hw: Tensor, side: int) -> Tensor:
    """Maximum over a square around each pixel."""
    across = F.max_pool2d(maps_I1hw, (1, side), stride=1, padding=(0, side // 2))
    return F.max_pool2d(across, (side, 1), stride=1, padding=(side // 2, 0))


def edge_distance(picture: Picture) -> dict[str, Tensor]:
    """How far the nearest edge is, counted in steps of 4 px along the longer axis."""
    peak = F.max_pool2d(picture.edge_Ihw[:, None], STEP_PX)
    near = (peak >= EDGE).to(peak.dtype)
    steps = FARTHEST_PX // STEP_PX
    farther = 1 - near
    for _ in range(steps - 1):
        near = dilate(near, 3)
        farther = farther + (1 - near)
    return {"edge_distance": per_cell(farther[:, 0] / steps, CELL_PX // STEP_PX)}
