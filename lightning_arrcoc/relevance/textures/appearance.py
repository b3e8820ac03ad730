"""Appearance channels: what the cell itself looks like, coarsely."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_arrcoc.relevance.textures.picture import CELL_PX, Picture, cell_pixels
from lightning_arrcoc.relevance.textures.table import DCT_ORDERS


def appearance(picture: Picture) -> dict[str, Tensor]:
    """Low frequencies of the cell's luma, and how its colours spread.

    Source: N. Ahmed, T. Natarajan, K. Rao, Discrete cosine transform, IEEE Transactions on
    Computers 1974; each coefficient over the most it can be for luma in [0, 1].
    """
    basis = cosines(picture.luma_Ihw.device)
    cells = cell_pixels(picture.luma_Ihw)
    waves = torch.einsum("ijyx,ky,lx->ijkl", cells.flatten(0, 1), basis, basis)
    waves = waves.view(*cells.shape[:3], *waves.shape[-2:])
    most = torch.einsum("ky,lx->klyx", basis, basis).clamp(min=0).sum((-2, -1))
    found = {f"dct_{row}{column}": (waves / most)[..., row, column] for row, column in DCT_ORDERS}
    a, b = (cell_pixels(axis) for axis in picture.lab_I3hw[:, 1:].unbind(1))
    spread = (a.var((-2, -1), correction=0) + b.var((-2, -1), correction=0)).sqrt()
    return found | {"chroma": (spread / 128).clamp(max=1)}


def cosines(device: torch.device) -> Tensor:
    """The four slowest rows of the DCT-II of a cell's side, ``(4, 32)``."""
    sample = torch.arange(CELL_PX, device=device, dtype=torch.float32) + 0.5
    order = torch.arange(4, device=device, dtype=torch.float32)
    return torch.cos(math.pi / CELL_PX * order[:, None] * sample)
