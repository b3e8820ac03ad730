"""Questions about real handwritten digits scattered over a cluttered canvas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch.utils.data import Dataset

from lightning_arrcoc.data.sample import Box, Sample, Turn

CELL_PX = 32  # one merged token of Qwen3-VL
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
CORNERS: dict[str, tuple[float, float]] = {  # as fractions of width, height
    "top left": (0.0, 0.0),
    "top right": (1.0, 0.0),
    "bottom left": (0.0, 1.0),
    "bottom right": (1.0, 1.0),
}
FAMILIES = ("colour", "place", "comparison", "count")
# A caption names every digit right behind its colour, which is how a fresh model learns to bind
# the two: with questions alone it lingers at naming any digit of the canvas.
TAUGHT = (*FAMILIES, "caption")
FEWEST_COUNTED = 3
GAP_PX = 2
SCAN_PAD = 2  # blank pixels around a scan, so that interpolation never meets its border
CLUTTER_PER_CELL = 0.3
# Chosen by us: a nearest digit that leads by less than half a cell is a coin toss for people too.
NEAREST_MARGIN_PX = 16.0
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


Asked = tuple[Turn, tuple[Box, ...]]  # a question and where its answer can be read


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


class DigitQuestions(Dataset[Sample]):
    """A fixed list of canvases with questions; sample i is the same in any worker, any run.

    Args:
        split: "train", "val" or "test": which scans are drawn.
        length: how many canvases.
        canvas_px: width and height; multiples of 32 keep the processor from resizing.
        digits: digits on a canvas. Canvases that ask to count carry 3 to `digits` of them.
        digit_px: smallest and largest side of a digit.
        jitter: 0 centres every digit on a token's cell, 1 places it anywhere.
        families: kinds of question, dealt out in turn so that each is equally frequent.
        turns: questions asked about one canvas; more than one asks about as much as fits.
        augment: shift, scale, rotate, shear and fade the scans. Leave off for measuring.
        seed: other seeds give other canvases over the same scans.

    Raises:
        ValueError: an argument is out of range, or the digits cannot stand apart on the canvas.
    """

    def __init__(
        self,
        split: str,
        length: int,
        *,
        canvas_px: tuple[int, int] = (384, 384),
        digits: int = 8,
        digit_px: tuple[int, int] = (24, 36),
        jitter: float = 1.0,
        families: Sequence[str] = FAMILIES,
        turns: int = 1,
        augment: bool = False,
        seed: int = 0,
    ) -> None:
        _check(split, length, canvas_px, digits, digit_px, jitter, families, turns)
        self.split, self.length, self.seed = split, length, seed
        self.canvas_px, self.digits = (canvas_px[0], canvas_px[1]), digits
        self.digit_px = (digit_px[0], digit_px[1])
        self.jitter, self.families, self.turns = jitter, tuple(families), turns
        self.augment = augment

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.length:
            raise IndexError(f"sample {index} of {self.length}")
        random = np.random.default_rng([self.seed, SPLITS.index(self.split), index])
        family = self.families[index % len(self.families)]
        scans, values = load_scans(self.split)
        while True:  # an arrangement may allow no question of the family: take another
            chosen, digits = self._arrange(random, family, values)
            asked = self._ask(random, family, digits)
            if asked:
                break
        image = draw_clutter(random, self.canvas_px)
        for scan, digit in zip(chosen, digits, strict=True):
            warp = random_warp(random) if self.augment else NO_WARP
            draw_digit(image, scans[scan], digit, warp)
        return Sample((image,), tuple(turn for turn, _ in asked), family, asked[0][1])

    def _arrange(
        self, random: np.random.Generator, family: str, values: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], list[Digit]]:
        """Which scans stand where, in which colour."""
        number = self.digits
        if family == "count":
            number = int(random.integers(min(FEWEST_COUNTED, number), number + 1))
        boxes = scatter(random, number, self.canvas_px, self.digit_px, self.jitter)
        colours = random.permutation(list(COLOURS))
        scans = random.integers(len(values), size=number)
        digits = [
            Digit(int(values[scan]), str(colours[i % len(colours)]), box)
            for i, (scan, box) in enumerate(zip(scans, boxes, strict=True))
        ]
        return scans, digits

    def _ask(self, random: np.random.Generator, family: str, digits: list[Digit]) -> list[Asked]:
        """A question of the family; with more turns also any others, in random order."""
        first = pick(random, QUESTIONS[family](random, digits, self.canvas_px), 1)
        if self.turns == 1 or not first:
            return first
        asked = [q for f in self.families for q in QUESTIONS[f](random, digits, self.canvas_px)]
        others = [q for q in asked if q[0].question != first[0][0].question]
        return first + pick(random, others, self.turns - 1)


# ------------------------------------------------------------------------------- questions


def pick(random: np.random.Generator, asked: list[Asked], most: int) -> list[Asked]:
    """At most that many of them, in random order."""
    return [asked[i] for i in random.permutation(len(asked))[:most]]


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


QUESTIONS = {
    "caption": ask_caption,
    "colour": ask_colour,
    "place": ask_place,
    "comparison": ask_comparison,
    "count": ask_count,
}

# --------------------------------------------------------------------------------- drawing


def scatter(
    random: np.random.Generator,
    number: int,
    canvas_px: tuple[int, int],
    digit_px: tuple[int, int],
    jitter: float,
) -> list[Box]:
    """Squares of random size that keep apart, at random places drawn towards cell centres."""
    while True:
        boxes: list[Box] = []
        for _ in range(50 * number):
            side = int(random.integers(digit_px[0], digit_px[1] + 1))
            left, top = (_coordinate(random, extent, side, jitter) for extent in canvas_px)
            box = Box(left, top, left + side, top + side)
            if all(_apart(box, other) for other in boxes):
                boxes.append(box)
                if len(boxes) == number:
                    return boxes


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


def _check(
    split: str,
    length: int,
    canvas_px: tuple[int, int],
    digits: int,
    digit_px: tuple[int, int],
    jitter: float,
    families: Sequence[str],
    turns: int,
) -> None:
    if split not in SPLITS:
        raise ValueError(f"split={split!r}; choose one of {', '.join(SPLITS)}.")
    if length < 1 or digits < 1 or turns < 1:
        raise ValueError(f"length={length}, digits={digits}, turns={turns}: each must be >= 1.")
    if not 8 <= digit_px[0] <= digit_px[1] <= min(canvas_px):
        raise ValueError(
            f"digit_px={tuple(digit_px)} on canvas_px={tuple(canvas_px)}; expected "
            "8 <= smallest <= largest <= the shorter side of the canvas."
        )
    if not 0 <= jitter <= 1:
        raise ValueError(f"jitter={jitter}; expected 0 (on the cells) to 1 (anywhere).")
    unknown = set(families) - set(TAUGHT)
    if unknown or not families:
        raise ValueError(f"families={list(families)}; choose from {', '.join(TAUGHT)}.")
    room = digits * (digit_px[1] + GAP_PX) ** 2 / (canvas_px[0] * canvas_px[1])
    if room > 0.4 and digits > 1:
        raise ValueError(
            f"{digits} digits of up to {digit_px[1]} px fill {room:.0%} of a canvas of "
            f"{canvas_px[0]}x{canvas_px[1]} px; stay below 40 %: fewer digits or a larger canvas."
        )
    own_colours = digits if digits <= len(COLOURS) else 2 * len(COLOURS) - digits
    for family, least in (("colour", 1), ("caption", 1), ("comparison", 2)):
        if family in families and own_colours < least:
            raise ValueError(
                f"Of {digits} digits {max(own_colours, 0)} have a colour to themselves; "
                f"{family!r} asks for {least}. Choose another number of digits or other families."
            )
