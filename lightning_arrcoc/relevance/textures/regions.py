"""Superpixel boundaries."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_arrcoc.relevance.textures.picture import CELL_PX, STEP_PX, Picture, per_cell

SPACING = 4  # between seeds, in steps of 4 px: a cell holds four superpixels
COMPACTNESS = 10.0  # Lab units that one spacing of distance weighs
ROUNDS = 3
NOTICED = 2.3  # Lab distance that people just notice (Mahy et al., 1994)


def boundaries(picture: Picture) -> dict[str, Tensor]:
    """Where superpixels of noticeably different colour meet.

    Source: R. Achanta et al., SLIC superpixels compared to state-of-the-art superpixel methods,
    PAMI 2012, section 4. Departures: on the image reduced four times, three rounds, no cleaning
    of stray pixels; a boundary counts only where the colours on its sides differ noticeably, so
    that a flat image has none.
    """
    lab = picture.small_lab_I3hw
    label, centres = superpixels(lab)
    mean = centres[:, :3].flatten(2).gather(2, label.flatten(1)[:, None].expand(-1, 3, -1))
    mean = mean.view_as(lab)
    right = F.pad((mean[..., 1:] - mean[..., :-1]).square().sum(1).sqrt(), (0, 1))
    below = F.pad((mean[:, :, 1:] - mean[:, :, :-1]).square().sum(1).sqrt(), (0, 0, 0, 1))
    meets = (torch.maximum(right, below) > NOTICED).to(lab.dtype)
    return {"boundary": per_cell(meets, CELL_PX // STEP_PX)}


def superpixels(lab_I3hw: Tensor) -> tuple[Tensor, Tensor]:
    """Label of each pixel ``(I, h, w)``, and Lab, row and column of each centre ``(I, 5, R, C)``.

    A centre starts in the middle of its square of `SPACING` pixels; a pixel joins the most
    similar of the nine around its own square.
    """
    count, _, height, width = lab_I3hw.shape
    rows, columns = height // SPACING, width // SPACING
    y, x = torch.meshgrid(
        torch.arange(height, device=lab_I3hw.device, dtype=lab_I3hw.dtype),
        torch.arange(width, device=lab_I3hw.device, dtype=lab_I3hw.dtype),
        indexing="ij",
    )
    place = torch.stack([y, x]).expand(count, -1, -1, -1) * (COMPACTNESS / SPACING)
    pixels = torch.cat([lab_I3hw, place], dim=1)
    centres = F.avg_pool2d(pixels, SPACING)
    index = torch.arange(rows * columns, device=lab_I3hw.device).view(1, 1, rows, columns)
    around = F.pad(index.to(lab_I3hw.dtype), (1, 1, 1, 1), mode="replicate").long()[0, 0]
    candidates = [
        around[dy : dy + rows, dx : dx + columns].flatten() for dy in range(3) for dx in range(3)
    ]
    label = lab_I3hw.new_zeros(count, height, width, dtype=torch.long)
    for _ in range(ROUNDS):
        nearest = torch.full_like(lab_I3hw[:, 0], torch.inf)
        for candidate in candidates:
            centre = centres.flatten(2)[:, :, candidate].view(count, 5, rows, columns)
            spread = F.interpolate(centre, scale_factor=float(SPACING), mode="nearest")
            distance = (pixels - spread).square().sum(1)
            joined = candidate.view(rows, columns).repeat_interleave(SPACING, 0)
            joined = joined.repeat_interleave(SPACING, 1).expand(count, -1, -1)
            closer = distance < nearest
            label = torch.where(closer, joined, label)
            nearest = torch.where(closer, distance, nearest)
        centres = _means(pixels, label, centres)
    return label, centres


def _means(pixels_I5hw: Tensor, label_Ihw: Tensor, before_I5RC: Tensor) -> Tensor:
    """Mean of each superpixel's pixels; one that lost all of them stays where it was."""
    flat = before_I5RC.flatten(2)
    where = label_Ihw.flatten(1)[:, None].expand(-1, flat.shape[1], -1)
    total = torch.zeros_like(flat).scatter_add_(2, where, pixels_I5hw.flatten(2))
    number = torch.zeros_like(flat).scatter_add_(2, where, torch.ones_like(pixels_I5hw).flatten(2))
    return torch.where(number > 0, total / number.clamp(min=1), flat).view_as(before_I5RC)
