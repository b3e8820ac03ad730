"""Place channels, and what is remembered of a turn or frame before."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_arrcoc.relevance.textures.picture import CELL_PX, Picture, per_cell


class Previous(NamedTuple):
    """The frame or turn before, for images of the same size. What is None counts as nothing.

    Attributes:
        images: RGB in [0, 1] ``(I, 3, h, w)``; for motion.
        saliency: ``(I, H, W)`` in [0, 1].
        relevance: ``(I, H, W)`` in [0, 1].
    """

    images: Tensor | None = None
    saliency: Tensor | None = None
    relevance: Tensor | None = None


def place(picture: Picture) -> dict[str, Tensor]:
    """Where each cell lies."""
    count, _, height, width = picture.images_I3hw.shape
    rows, columns = height // CELL_PX, width // CELL_PX
    centres = [
        (torch.arange(n, device=picture.images_I3hw.device, dtype=torch.float32) + 0.5) / n
        for n in (rows, columns)
    ]
    y, x = torch.meshgrid(*centres, indexing="ij")
    from_middle = torch.hypot((y - 0.5) * height, (x - 0.5) * width)
    maps = {"y": y, "x": x, "eccentricity": from_middle / (0.5 * (height**2 + width**2) ** 0.5)}
    return {name: values.expand(count, rows, columns) for name, values in maps.items()}


def remembered(picture: Picture, previous: Previous) -> dict[str, Tensor]:
    """Motion, saliency and relevance of the turn before; zeros for a first one.

    Raises:
        ValueError: the turn before had another size.
    """
    count, _, height, width = picture.images_I3hw.shape
    nothing = picture.images_I3hw.new_zeros(count, height // CELL_PX, width // CELL_PX)
    motion = nothing
    if previous.images is not None:
        _same("images", previous.images, picture.images_I3hw)
        before = Picture(previous.images.float())
        motion = per_cell((picture.luma_Ihw - before.luma_Ihw).abs())
    found = {"motion": motion}
    for name in ("saliency", "relevance"):
        value: Tensor | None = getattr(previous, name)
        if value is not None:
            _same(name, value, nothing)
        found[f"previous_{name}"] = nothing if value is None else value.float()
    return found


def _same(name: str, found: Tensor, expected: Tensor) -> None:
    if found.shape != expected.shape:
        raise ValueError(
            f"previous.{name} has shape {tuple(found.shape)}; expected {tuple(expected.shape)}, "
            "that of the images now. Start anew (previous=None) when the size changes."
        )
