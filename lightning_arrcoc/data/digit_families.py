"""Families of questions about a canvas, each with its true answer and where to read it."""

from __future__ import annotations

import math

import numpy as np

from lightning_arrcoc.data.digit_canvas import COLOURS, Digit
from lightning_arrcoc.data.sample import Box, Turn

CORNERS: dict[str, tuple[float, float]] = {  # as fractions of width, height
    "top left": (0.0, 0.0),
    "top right": (1.0, 0.0),
    "bottom left": (0.0, 1.0),
    "bottom right": (1.0, 1.0),
}
FAMILIES = ("colour", "place", "comparison", "count")
# Asked in training only. A caption names every digit right behind its colour, which is how a fresh
# model learns to bind the two: with questions alone it lingers at naming any digit of the canvas.
# Asked where a digit is, it learns to tell places before it has to compare them.
LESSONS = ("caption", "where")
# Chosen by us: a nearest digit that leads by less than a cell is a coin toss for people too.
NEAREST_MARGIN_PX = 32.0
MIDDLE_MARGIN_PX = 8.0  # closer to a middle line than this, a digit is on neither side of it

Asked = tuple[Turn, tuple[Box, ...]]  # a question and where its answer can be read


def shuffled(random: np.random.Generator, asked: list[Asked]) -> list[Asked]:
    """The same in random order."""
    return [asked[i] for i in random.permutation(len(asked))]


def with_own_colour(digits: list[Digit]) -> list[Digit]:
    """Digits that a colour names without doubt."""
    colours = [digit.colour for digit in digits]
    return [digit for digit in digits if colours.count(digit.colour) == 1]


def ask_colour(
    random: np.random.Generator, digits: list[Digit], canvas_px: tuple[int, int]
) -> list[Asked]:
    """Each digit that has its colour to itself."""
    return [
        (Turn(f"Which digit is {digit.colour}?", str(digit.value)), (digit.box,))
        for digit in with_own_colour(digits)
    ]


def ask_place(
    random: np.random.Generator, digits: list[Digit], canvas_px: tuple[int, int]
) -> list[Asked]:
    """Each corner that one digit is clearly nearest to."""
    asked: list[Asked] = []
    for name, (x, y) in CORNERS.items():
        corner = (x * canvas_px[0], y * canvas_px[1])
        by_distance = sorted(digits, key=lambda digit: math.dist(digit.centre, corner))
        distances = [math.dist(digit.centre, corner) for digit in by_distance]
        if len(digits) == 1 or distances[1] - distances[0] >= NEAREST_MARGIN_PX:
            nearest = by_distance[0]
            question = f"Which digit is nearest the {name} corner?"
            asked.append((Turn(question, str(nearest.value)), (nearest.box,)))
    return asked


def ask_comparison(
    random: np.random.Generator, digits: list[Digit], canvas_px: tuple[int, int]
) -> list[Asked]:
    """Each pair of neighbours in a random order once; yes and no are equally frequent."""
    named = with_own_colour(digits)
    named = [named[i] for i in random.permutation(len(named))]
    asked: list[Asked] = []
    for one, other in zip(named[::2], named[1::2], strict=False):
        if one.value == other.value:
            continue
        yes = bool(random.integers(2))
        first, second = (one, other) if (one.value > other.value) == yes else (other, one)
        question = f"Is the {first.colour} digit greater than the {second.colour} one?"
        asked.append((Turn(question, "yes" if yes else "no"), (first.box, second.box)))
    return asked


def ask_count(
    random: np.random.Generator, digits: list[Digit], canvas_px: tuple[int, int]
) -> list[Asked]:
    """How many digits there are."""
    boxes = tuple(digit.box for digit in digits)
    return [(Turn("How many digits are there?", str(len(digits))), boxes)]


def ask_caption(
    random: np.random.Generator, digits: list[Digit], canvas_px: tuple[int, int]
) -> list[Asked]:
    """Colour and digit of each, in the palette's order."""
    told = sorted(with_own_colour(digits), key=lambda digit: list(COLOURS).index(digit.colour))
    if not told:
        return []
    caption = " ".join(f"{digit.colour}{digit.value}" for digit in told)
    return [(Turn("Describe the image.", caption), tuple(digit.box for digit in told))]


def ask_where(
    random: np.random.Generator, digits: list[Digit], canvas_px: tuple[int, int]
) -> list[Asked]:
    """The quarter of the canvas in which each digit with its own colour stands."""
    asked: list[Asked] = []
    for digit in with_own_colour(digits):
        x, y = digit.centre[0] - canvas_px[0] / 2, digit.centre[1] - canvas_px[1] / 2
        if min(abs(x), abs(y)) >= MIDDLE_MARGIN_PX:
            quarter = f"{'top' if y < 0 else 'bottom'} {'left' if x < 0 else 'right'}"
            asked.append((Turn(f"Where is the {digit.colour} digit?", quarter), (digit.box,)))
    return asked


QUESTIONS = {
    "caption": ask_caption,
    "where": ask_where,
    "colour": ask_colour,
    "place": ask_place,
    "comparison": ask_comparison,
    "count": ask_count,
}
