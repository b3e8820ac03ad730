"""Values over an image's cells as small pictures, and tokens as outlines."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize
from PIL import Image
from torch import Tensor

from lightning_arrcoc.compare.page.pictures import png_url
from lightning_arrcoc.pictures.kept import level_counts
from lightning_arrcoc.pictures.maps import Scale, found
from lightning_arrcoc.relevance import Allocation

DROPPED_HERE = -1
FLAT = 0.01  # values that differ by less look alike; chosen by us: captions have two decimals


class CellMap(NamedTuple):
    """One value a cell.

    Attributes:
        name: what it is.
        url: the map, a pixel a cell.
        rows, columns: its grid.
        values: hundredths, row by row, for whoever points at a cell.
        found: smallest and largest.
    """

    name: str
    url: str
    rows: int
    columns: int
    values: str
    found: str


class Outlines(NamedTuple):
    """Tokens over an image, as paths in cells.

    Attributes:
        rows, columns: the grid they lie on.
        dropped: all that no token covers.
        levels: a path for each level that has tokens.
        values: level of every cell, or -1, for whoever points at it.
    """

    rows: int
    columns: int
    dropped: str
    levels: dict[int, str]
    values: str


def cell_map(name: str, values_HW: Tensor, scale: Scale) -> CellMap:
    """A map in the colours of `scale`, spread over the values that are there.

    What decides is which cells have more than others, so small differences are to be seen; what
    they amount to stands below, and is read by pointing. Two signs keep zero in the middle.
    """
    values = values_HW.detach().float().cpu()
    rows, columns = values.shape
    low, high = (float(end) for end in values.aminmax())
    if scale.low < 0 < scale.high:
        high = max(-low, high)
        low = -high
    middle = FLAT / 2 if high - low < FLAT else 0.0  # no noise where all are alike
    spread = Normalize(low - middle, high + middle)
    shades = colormaps[scale.colours](spread(values.numpy()))
    pixels = np.round(shades[..., :3] * 255).astype(np.uint8)
    hundredths = (values * 100).round().long().flatten().tolist()
    return CellMap(
        name, png_url(Image.fromarray(pixels)), rows, columns,
        " ".join(map(str, hundredths)), found(values),
    )  # fmt: skip


def outlines(allocation: Allocation) -> Outlines:
    """What an allocation keeps, and at which level."""
    rows, columns = allocation.relevance.shape
    levels = np.full((rows, columns), DROPPED_HERE)
    paths: dict[int, list[str]] = {level: [] for level in sorted(level_counts(allocation))}
    for (top, left, bottom, right), level in zip(
        allocation.boxes.tolist(), allocation.levels.tolist(), strict=True
    ):
        levels[top:bottom, left:right] = level
        paths[level].append(f"M{left} {top}H{right}V{bottom}H{left}Z")
    every = "".join(box for boxes in paths.values() for box in boxes)
    return Outlines(
        rows, columns,
        f"M0 0H{columns}V{rows}H0Z{every}",
        {level: "".join(boxes) for level, boxes in paths.items()},
        " ".join(map(str, levels.flatten().tolist())),
    )  # fmt: skip
