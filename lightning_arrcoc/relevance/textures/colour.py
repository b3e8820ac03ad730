"""Colour channels."""

from __future__ import annotations

from torch import Tensor

from lightning_arrcoc.relevance.textures.picture import CELL_PX, STEP_PX, Picture, block_mean


def colour(picture: Picture) -> dict[str, Tensor]:
    """Mean colour of each cell."""
    lightness, a, b = block_mean(picture.small_lab_I3hw, CELL_PX // STEP_PX).unbind(1)
    red, green, blue = block_mean(picture.images_I3hw, CELL_PX).unbind(1)
    return {
        "red": red, "green": green, "blue": blue,
        "L": lightness / 100, "a": a / 128, "b": b / 128,
    }  # fmt: skip
