"""Appearance channels: what the cell itself looks like, coarsely."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_arrcoc.relevance.textures.picture import CELL_PX, Picture, cell_spread
from lightning_arrcoc.relevance.textures.table import DCT_ORDERS


def appearance(picture: Picture) -> dict[str, Tensor]:
    """Low frequencies of the cell's luma, and how its colours spread.

    Source: N. Ahmed, T. Natarajan, K. Rao, Discrete cosine transform, IEEE Transactions on
    Computers 1974; each coefficient over the most it can be for luma in [0, 1].
    """
    luma = picture.luma_Ihw
    basis = cosines(luma.device)
    down = basis @ torch.unflatten(luma, 1, (-1, CELL_PX))  # (I, H, 4, w)
    waves = torch.unflatten(down, 3, (-1, CELL_PX)) @ basis.T  # (I, H, 4, W, 4)
    # A wave is strongest for luma that is 1 where the wave is positive and 0 elsewhere.
    most = torch.einsum("ky,lx->klyx", basis, basis).clamp(min=0).sum((-2, -1))
    found = {
        f"dct_{row}{column}": waves[:, :, row, :, column] / most[row, column]
        for row, column in DCT_ORDERS
    }
    a, b = picture.lab_I3hw[:, 1], picture.lab_I3hw[:, 2]
    spread = (cell_spread(a) + cell_spread(b)).sqrt()
    return found | {"chroma": (spread / 128).clamp(max=1)}


def cosines(device: torch.device) -> Tensor:
    """The four slowest rows of the DCT-II of a cell's side, ``(4, 32)``."""
    sample = torch.arange(CELL_PX, device=device, dtype=torch.float32) + 0.5
    order = torch.arange(4, device=device, dtype=torch.float32)
    return torch.cos(math.pi / CELL_PX * order[:, None] * sample)
