"""A stranger sees which cells each token covers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from lightning_arrcoc.pictures.kept import (
    DIMMED,
    INSET,
    LEVEL_COLOURS,
    draw_kept,
    level_counts,
    level_key,
)
from lightning_arrcoc.relevance import Allocation

Allocate = Callable[..., Allocation]
MIXED = [(0, 0, 0), (1, 0, 2), (2, 4, 0), (2, 4, 4)]  # on 5 x 6 cells the last two stick out
COVERED = np.array(
    [
        [1, 0, 1, 1, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1],
    ]
)


def drawn(image: Image.Image, allocation: Allocation) -> Axes:
    axes = Figure(figsize=(6, 5), dpi=100).add_axes((0, 0, 1, 1))
    draw_kept(axes, image, allocation)
    return axes


def frames(axes: Axes) -> list[tuple[str, tuple[float, ...]]]:
    """Colour, and first row and column and those behind the last, of each frame on top."""
    *_, collection = axes.collections
    assert isinstance(collection, PolyCollection)
    corners = [path.vertices for path in collection.get_paths()]
    colours = [to_hex(colour) for colour in collection.get_edgecolor()]
    return [
        (colour, tuple(np.round([*c.min(0)[::-1], *c.max(0)[::-1]], 6)))
        for colour, c in zip(colours, corners, strict=True)
    ]


def test_each_token_has_a_frame_in_the_colour_of_its_level(allocate: Allocate) -> None:
    found = frames(drawn(Image.new("RGB", (192, 160), "white"), allocate(5, 6, MIXED)))
    one, two, four = LEVEL_COLOURS
    assert len({one, two, four}) == 3
    inset = (INSET, INSET, -INSET, -INSET)
    assert found == [
        (colour, tuple(np.round(np.add(box, inset), 6)))
        for colour, box in [
            (one, (0, 0, 1, 1)), (two, (0, 2, 2, 4)), (four, (4, 0, 5, 4)), (four, (4, 4, 5, 6)),
        ]
    ]  # fmt: skip


def test_covered_cells_are_bright_and_dropped_ones_dark_where_they_stand(
    allocate: Allocate,
) -> None:
    """Looks at the rendered pixels in the middle of each cell of a white image."""
    allocation = allocate(5, 6, MIXED)
    axes = drawn(Image.new("RGB", (192, 160), "white"), allocation)
    canvas = FigureCanvasAgg(axes.figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba(), dtype=int)[..., :3].mean(-1)
    for (row, column), kept in np.ndenumerate(COVERED):
        x, y = axes.transData.transform((column + 0.5, row + 0.5))
        expected = 255 if kept else 255 * DIMMED
        assert pixels[len(pixels) - round(y), round(x)] == pytest.approx(expected, abs=8)


def test_no_token_at_all_is_a_dark_image_without_frames(allocate: Allocate) -> None:
    """One image of several may get none."""
    axes = drawn(Image.new("RGB", (64, 64), "white"), allocate(2, 2, []))
    assert frames(axes) == []
    assert np.asarray(axes.images[0].get_array()) == pytest.approx(DIMMED)


def test_levels_are_counted_and_explained(allocate: Allocate) -> None:
    allocation = allocate(5, 6, MIXED)
    assert level_counts(allocation) == {0: 1, 1: 1, 2: 2}
    assert level_counts(allocate(2, 2, [])) == {}
    assert [patch.get_label() for patch in level_key(level_counts(allocation))] == [
        "level 0: one cell", "level 1: 2 x 2 cells", "level 2: 4 x 4 cells",
    ]  # fmt: skip


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_the_image_is_left_as_it_was(mode: str, allocate: Allocate) -> None:
    image = Image.new(mode, (2000, 1000))
    drawn(image, allocate(2, 4, [(0, 0, 0)]))
    assert (image.mode, image.size) == (mode, (2000, 1000))
