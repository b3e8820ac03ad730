"""Colour channels."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from lightning_arrcoc.relevance.textures.picture import CELL_PX, Picture


def colour(picture: Picture) -> dict[str, Tensor]:
    """Mean colour of each cell."""
    lightness, a, b = F.avg_pool2d(picture.lab_I3hw, CELL_PX).unbind(1)
    red, green, blue = F.avg_pool2d(picture.images_I3hw, CELL_PX).unbind(1)
    return {
        "red": red, "green": green, "blue": blue,
        "L": lightness / 100, "a": a / 128, "b": b / 128,
    }  # fmt: skip
