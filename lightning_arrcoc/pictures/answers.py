"""Questions with what the model made of them, and a sheet of several."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure
from PIL import Image

from lightning_arrcoc.pictures.kept import draw_kept, level_counts, level_key
from lightning_arrcoc.relevance import Allocation

RIGHT, WRONG, NEUTRAL = "#2e7d32", "#c62828", "#333333"
COLUMNS = 4


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
        heading = f"{wrap(item.question)}\n{kept_words(item.allocation)}"
        axes.set_title(heading, fontsize=9, parse_math=False)
        axes.text(
            0.5, -0.03, verdict(item), transform=axes.transAxes, ha="center", va="top",
            fontsize=10, color=verdict_colour(item), weight="bold", parse_math=False,
        )  # fmt: skip
    levels = sorted({level for item in answered for level in level_counts(item.allocation)})
    if any(levels):
        figure.legend(
            handles=level_key(levels), loc="outside lower center", ncols=columns, frameon=False
        )
    return figure


def kept_words(allocation: Allocation) -> str:
    """How many of an image's tokens are kept."""
    return f"kept {len(allocation.levels)} of {allocation.relevance.numel()} tokens"


def verdict(item: Answered, width: int = 44) -> str:
    """The answer, and the truth where it is known."""
    if item.truth is None:
        return wrap(f"answer: {item.answer}", width)
    return wrap(f"answer: {item.answer}    truth: {item.truth}", width)


def verdict_colour(item: Answered) -> str:
    """Green where the answer is right, red where it is wrong, grey where nobody knows."""
    if item.truth is None:
        return NEUTRAL
    return RIGHT if item.answer.strip().casefold() == item.truth.strip().casefold() else WRONG


def wrap(text: str, width: int = 44) -> str:
    """The text in at most three lines that fit with a picture, without control characters."""
    printable = "".join(sign if sign.isprintable() or sign.isspace() else "?" for sign in text)
    return textwrap.fill(printable, width, max_lines=3, placeholder=" ...", drop_whitespace=False)
