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
    blurred = {sigma: blur(lab, sigma) for sigma in sorted({s for pair in SCALES for s in pair})}
    distances = [
        (blurred[centre] - blurred[surround]).square().sum(1).sqrt() for centre, surround in SCALES
    ]
    mean = torch.stack(distances).mean(0)
    return {"saliency": (per_cell(mean, CELL_PX // STEP_PX) / 100).clamp(max=1)}


def strokes(picture: Picture) -> dict[str, Tensor]:
    """How strongly thin strokes, dark or bright, stand against their ground.

    Source: the top-hat transform, J. Serra, Image Analysis and Mathematical Morphology, 1982,
    chapter XII; white and black, of which each pixel takes the stronger.
    """
    luma = F.avg_pool2d(picture.luma_Ihw, 2)
    opened = dilate(-dilate(-luma, STROKE), STROKE)
    closed = -dilate(-dilate(luma, STROKE), STROKE)
    hat = torch.maximum(luma - opened, closed - luma).clamp(min=0)
    return {"text": per_cell(hat, CELL_PX // 2)}


def dilate(maps_Ihw: Tensor, side: int) -> Tensor:
    """Maximum over a square around each pixel, as far as the image goes."""
    # Maxima of shifted copies: pooling with stride 1 takes five times as long.
    for axis in (1, 2):
        border = (0, 0) * (2 - axis) + (side // 2, side // 2)
        padded = F.pad(maps_Ihw, border, value=-torch.inf)
        reach = 1
        while reach < side:
            more = min(reach, side - reach)
            length = padded.shape[axis] - more
            padded = torch.maximum(
                padded.narrow(axis, 0, length), padded.narrow(axis, more, length)
            )
            reach += more
        maps_Ihw = padded
    return maps_Ihw


def edge_distance(picture: Picture) -> dict[str, Tensor]:
    """How far the nearest edge is, counted in steps of 4 px along the longer axis."""
    near = (picture.small_edge_Ihw >= EDGE).float()
    steps = FARTHEST_PX // STEP_PX
    farther = 1 - near
    for _ in range(steps - 1):
        near = dilate(near, 3)
        farther = farther + (1 - near)
    return {"edge_distance": per_cell(farther / steps, CELL_PX // STEP_PX)}
