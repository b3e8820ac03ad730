"""Drawing: real scans of digits, in colour, at free places over clutter."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lightning_arrcoc.data.sample import Box
from lightning_arrcoc.relevance import CELL_PX

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (235, 40, 40),
    "green": (40, 200, 60),
    "blue": (60, 90, 250),
    "yellow": (245, 225, 50),
    "cyan": (50, 220, 230),
    "magenta": (230, 60, 220),
    "orange": (250, 140, 30),
    "white": (245, 245, 245),
}
GAP_PX = 2
SCAN_PAD = 2  # blank pixels around a scan, so that interpolation never meets its border
CLUTTER_PER_CELL = 0.3
MOST_TRIES = 1000
SPLITS = ("train", "val", "test")
HELD_OUT = {"val": 200, "test": 300}  # scans; the other 1297 are for training


class Digit(NamedTuple):
    """A scan put on the canvas."""

    value: int
    colour: str
    box: Box

    @property
    def centre(self) -> tuple[float, float]:
        return (self.box.left + self.box.right) / 2, (self.box.top + self.box.bottom) / 2


@cache
def load_scans(split: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Real scans of one split: images ``(n, 8, 8)`` in [0, 1] and their digits ``(n,)``.

    Splits share no scan and hold every digit in equal proportion.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998, as
    shipped by ``sklearn.datasets.load_digits`` (1797 scans).
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    rest = np.arange(len(digits.target))
    chosen: dict[str, NDArray[np.int64]] = {}
    for name, count in HELD_OUT.items():
        rest, chosen[name] = train_test_split(
            rest, test_size=count, random_state=0, stratify=digits.target[rest]
        )
    chosen["train"] = rest
    images = (digits.images[chosen[split]] / 16.0).astype(np.float32)
    return images, digits.target[chosen[split]].astype(np.int64)


def scatter(
    random: np.random.Generator,
    number: int,
    canvas_px: tuple[int, int],
    digit_px: tuple[int, int],
    jitter: float,
) -> list[Box]:
    """Squares of random size that keep apart, at random places drawn towards cell centres.

    Raises:
        ValueError: so many cannot stand apart there.
    """
    for _ in range(MOST_TRIES):
        boxes: list[Box] = []
        for _ in range(50 * number):
            side = int(random.integers(digit_px[0], digit_px[1] + 1))
            left, top = (_coordinate(random, extent, side, jitter) for extent in canvas_px)
            box = Box(left, top, left + side, top + side)
            if all(_apart(box, other) for other in boxes):
                boxes.append(box)
                if len(boxes) == number:
                    return boxes
    raise ValueError(
        f"{number} digits of {digit_px} px with jitter {jitter} do not stand apart on {canvas_px} "
        "px. Choose fewer or smaller digits, a larger canvas or more jitter."
    )


def _coordinate(random: np.random.Generator, extent: int, side: int, jitter: float) -> int:
    free = random.uniform(0, extent - side) + side / 2
    cell_centre = (free // CELL_PX + 0.5) * CELL_PX
    start = round(cell_centre + jitter * (free - cell_centre) - side / 2)
    return min(max(start, 0), extent - side)


def _apart(one: Box, other: Box) -> bool:
    return (
        one.right + GAP_PX <= other.left
        or other.right + GAP_PX <= one.left
        or one.bottom + GAP_PX <= other.top
        or other.bottom + GAP_PX <= one.top
    )


def draw_clutter(random: np.random.Generator, canvas_px: tuple[int, int]) -> Image.Image:
    """A dark, uneven ground with grey strokes, frames and specks, none as bright as a digit."""
    width, height = canvas_px
    corners = random.integers(5, 60, size=(2, 2, 3)).astype(np.uint8)
    image = Image.fromarray(corners).resize(canvas_px, Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(image)
    for _ in range(round(CLUTTER_PER_CELL * width * height / CELL_PX**2)):
        x, y = random.uniform(0, width), random.uniform(0, height)
        dx, dy = random.uniform(-40, 40, size=2)
        grey = int(random.integers(50, 120))
        tint = tuple(int(v) for v in grey + random.integers(-15, 16, size=3))
        shape = random.integers(3)
        if shape == 0:
            pen.line((x, y, x + dx, y + dy), fill=tint, width=int(random.integers(1, 4)))
        elif shape == 1:
            pen.rectangle((x, y, x + abs(dx), y + abs(dy)), outline=tint)
        else:
            radius = abs(dx) / 10
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tint)
    return image


Warp = NDArray[np.float64]  # (2, 3): canvas pixel of the unit square -> place in the scan, affine
NO_WARP: Warp = np.eye(2, 3)


def random_warp(random: np.random.Generator) -> Warp:
    """A small rotation, scale, shear and shift about the scan's middle."""
    angle = random.uniform(-0.25, 0.25)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    stretch = np.diag(random.uniform(0.87, 1.2, size=2))
    shear = np.array([[1.0, random.uniform(-0.2, 0.2)], [0.0, 1.0]])
    linear = turn @ shear @ stretch
    middle = np.array([0.5, 0.5])
    shift = random.uniform(-0.08, 0.08, size=2) + middle - linear @ middle
    return np.column_stack([linear, shift])


def draw_digit(
    image: Image.Image, scan: NDArray[np.float32], digit: Digit, warp: Warp = NO_WARP
) -> None:
    """Paint a scan ``(8, 8)`` in the digit's colour into its box, in place."""
    left, top = int(digit.box.left), int(digit.box.top)
    side = int(digit.box.right) - left
    padded = Image.fromarray(np.pad(np.round(scan * 255).astype(np.uint8), SCAN_PAD))
    size = scan.shape[0]
    to_scan = np.column_stack([warp[:, :2] * size / side, warp[:, 2] * size + SCAN_PAD])
    ink = padded.transform(
        (side, side), Image.Transform.AFFINE, tuple(to_scan.ravel()), Image.Resampling.BICUBIC
    )
    image.paste(COLOURS[digit.colour], (left, top), ink)
