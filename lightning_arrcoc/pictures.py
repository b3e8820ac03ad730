"""Pictures of what was kept."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from lightning_arrcoc.atomic import write_atomically
from lightning_arrcoc.relevance import Allocation

DIMMED = 0.22  # brightness of a dropped cell
RIGHT, WRONG, NEUTRAL = "#2e7d32", "#c62828", "#333333"
COLUMNS = 4
MOST_SIDE_PX = 1024  # finer than a sheet can show


class Answered(NamedTuple):
    """One question with what the model made of it.

    Attributes:
        image: as it was given.
        question: what was asked.
        answer: the model's.
        truth: the right one; None where nobody knows.
        allocation: the tokens the image was given.
    """

    image: Image.Image
    question: str
    answer: str
    truth: str | None
    allocation: Allocation


def kept_mask(allocation: Allocation) -> NDArray[np.bool_]:
    """Which cells are kept, ``(H, W)``."""
    kept = np.zeros(tuple(allocation.relevance.shape), dtype=bool)
    kept.flat[allocation.cells.cpu().numpy()] = True
    return kept


def draw_kept(axes: Axes, image: Image.Image, allocation: Allocation) -> None:
    """Show the image with dropped cells dark and kept ones bright and framed."""
    kept = kept_mask(allocation)
    rows, columns = kept.shape
    image = image.copy()
    image.thumbnail((MOST_SIDE_PX, MOST_SIDE_PX))
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    bright = np.asarray(Image.fromarray(kept).resize(image.size, Image.Resampling.NEAREST))
    pixels = pixels * np.where(bright, 1.0, DIMMED)[..., None]
    axes.imshow(
        pixels, extent=(0, columns, rows, 0), aspect=image.height * columns / (image.width * rows)
    )
    for row, column in zip(*kept.nonzero(), strict=True):
        x, y = (column, column + 1, column + 1, column, column), (row, row, row + 1, row + 1, row)
        axes.plot(x, y, color=to_rgb("#ffd54f"), linewidth=0.8)
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    axes.set_axis_off()


def draw_answers(answered: Sequence[Answered], title: str) -> Figure:
    """A sheet: each image with its kept cells bright, the question, the answer and the truth."""
    columns = min(COLUMNS, len(answered))
    rows = -(-len(answered) // columns)
    figure = Figure(figsize=(3.4 * columns, 4.2 * rows + 0.6), layout="constrained")
    figure.suptitle(title, fontsize=12)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, item in zip(grid.flat, answered, strict=False):
        draw_kept(axes, item.image, item.allocation)
        kept, cells = len(item.allocation.levels), item.allocation.relevance.numel()
        heading = f"{wrap(item.question)}\nkept {kept} of {cells} tokens"
        axes.set_title(heading, fontsize=9, parse_math=False)
        axes.text(
            0.5, -0.03, verdict(item), transform=axes.transAxes, ha="center", va="top",
            fontsize=10, color=verdict_colour(item), weight="bold", parse_math=False,
        )  # fmt: skip
    return figure


def verdict(item: Answered) -> str:
    """The answer, and the truth where it is known."""
    if item.truth is None:
        return wrap(f"answer: {item.answer}")
    return wrap(f"answer: {item.answer}    truth: {item.truth}")


def verdict_colour(item: Answered) -> str:
    """Green where the answer is right, red where it is wrong, grey where nobody knows."""
    if item.truth is None:
        return NEUTRAL
    return RIGHT if item.answer.strip().casefold() == item.truth.strip().casefold() else WRONG


def wrap(text: str, width: int = 44) -> str:
    """The text in at most three lines that fit with a picture, without control characters."""
    printable = "".join(sign if sign.isprintable() or sign.isspace() else "?" for sign in text)
    return textwrap.fill(printable, width, max_lines=3, placeholder=" ...", drop_whitespace=False)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))
