"""An image under the quadtree of its tokens."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.patches import Patch
from PIL import Image

from lightning_arrcoc.relevance import Allocation

DIMMED = 0.22  # brightness of what is dropped
LEVEL_COLOURS = ("#ffd54f", "#4dd0e1", "#f06292")
MOST_SIDE_PX = 1024  # finer than a sheet can show
INSET = 0.05  # cells; frames of neighbours stand side by side instead of one on the other


def draw_kept(axes: Axes, image: Image.Image, allocation: Allocation) -> None:
    """Show the image with dropped cells dark, and a frame round what each token covers."""
    kept = allocation.covered.cpu().numpy()
    rows, columns = kept.shape
    small = image.convert("RGB")
    small.thumbnail((MOST_SIDE_PX, MOST_SIDE_PX))
    pixels = np.asarray(small, dtype=np.float32) / 255
    bright = np.asarray(Image.fromarray(kept).resize(small.size, Image.Resampling.NEAREST))
    pixels = pixels * np.where(bright, 1.0, DIMMED)[..., None]
    axes.imshow(pixels, extent=(0, columns, rows, 0), aspect=cell_aspect(image, rows, columns))
    _frame(axes, allocation, width_pt=float(np.clip(20 / max(rows, columns), 0.3, 1.4)))
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    axes.set_axis_off()


def cell_aspect(image: Image.Image, rows: int, columns: int) -> float:
    """Height of a cell over its width, so that the image keeps its proportions."""
    return image.height * columns / (image.width * rows)


def level_counts(allocation: Allocation) -> dict[int, int]:
    """Tokens at each level that has any."""
    levels, counts = np.unique(allocation.levels.cpu().numpy(), return_counts=True)
    return dict(zip(levels.tolist(), counts.tolist(), strict=True))


def level_colour(level: int) -> str:
    """Colour of a level's frames."""
    return LEVEL_COLOURS[level % len(LEVEL_COLOURS)]


def level_key(levels: Iterable[int]) -> list[Patch]:
    """What the colours of the frames mean, for a legend."""
    return [
        Patch(
            facecolor=level_colour(level),
            edgecolor="black",
            linewidth=0.5,
            label=f"level {level}: {2**level} x {2**level} cells" if level else "level 0: one cell",
        )
        for level in levels
    ]


def _frame(axes: Axes, allocation: Allocation, width_pt: float) -> None:
    """Frames in the colours of their levels, on black, to be seen on any image."""
    boxes = allocation.boxes.cpu().numpy() + np.array([INSET, INSET, -INSET, -INSET])
    top, left, bottom, right = boxes.reshape(-1, 4).T
    corners = np.stack([left, top, right, top, right, bottom, left, bottom], 1).reshape(-1, 4, 2)
    colours = [level_colour(level) for level in allocation.levels.tolist()]
    for colour, width in (("black", 2.2 * width_pt), (colours, width_pt)):
        axes.add_collection(
            PolyCollection(list(corners), facecolors="none", edgecolors=colour, linewidths=width)
        )
