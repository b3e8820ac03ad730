"""Questions about real handwritten digits scattered over a cluttered canvas."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from lightning_arrcoc.data.digit_canvas import (
    COLOURS,
    GAP_PX,
    NO_WARP,
    SPLITS,
    Digit,
    draw_clutter,
    draw_digit,
    load_scans,
    random_warp,
    scatter,
)
from lightning_arrcoc.data.digit_families import FAMILIES, LESSONS, QUESTIONS, Asked, shuffled
from lightning_arrcoc.data.sample import Sample

FEWEST_COUNTED = 3
MOST_TRIES = 1000


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
        augment: shift, scale, rotate and shear the scans. Leave off for measuring.
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
        _check(split, length, canvas_px, digits, digit_px, jitter, families, turns, seed)
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
        for _ in range(MOST_TRIES):  # an arrangement may allow no question of the family
            chosen, digits = self._arrange(random, family, values)
            asked = self._ask(random, family, digits)
            if asked:
                break
        else:
            raise ValueError(
                f"No arrangement of {self.digits} digits on {self.canvas_px} px allows a "
                f"{family!r} question. Choose a larger canvas or other families."
            )
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
        """A question of the family; with more turns also of the others, dealt out in turn."""
        first = self.families.index(family)
        order = [*self.families[first:], *self.families[:first]]
        if self.turns == 1:
            order = [family]
        stacks = [shuffled(random, QUESTIONS[f](random, digits, self.canvas_px)) for f in order]
        if not stacks[0]:
            return []
        dealt = [asked for deal in zip_longest(*stacks) for asked in deal if asked is not None]
        return dealt[: self.turns]


def _check(
    split: str,
    length: int,
    canvas_px: tuple[int, int],
    digits: int,
    digit_px: tuple[int, int],
    jitter: float,
    families: Sequence[str],
    turns: int,
    seed: int,
) -> None:
    if split not in SPLITS:
        raise ValueError(f"split={split!r}; choose one of {', '.join(SPLITS)}.")
    if length < 1 or digits < 1 or turns < 1:
        raise ValueError(f"length={length}, digits={digits}, turns={turns}: each must be >= 1.")
    if seed < 0:
        raise ValueError(f"seed={seed}; expected 0 or more.")
    if not 8 <= digit_px[0] <= digit_px[1] <= min(canvas_px):
        raise ValueError(
            f"digit_px={tuple(digit_px)} on canvas_px={tuple(canvas_px)}; expected "
            "8 <= smallest <= largest <= the shorter side of the canvas."
        )
    if not 0 <= jitter <= 1:
        raise ValueError(f"jitter={jitter}; expected 0 (on the cells) to 1 (anywhere).")
    unknown = set(families) - {*FAMILIES, *LESSONS}
    if unknown or not families:
        raise ValueError(
            f"families={list(families)}; choose from {', '.join((*FAMILIES, *LESSONS))}."
        )
    room = digits * (digit_px[1] + GAP_PX) ** 2 / (canvas_px[0] * canvas_px[1])
    if room > 0.4 and digits > 1:
        raise ValueError(
            f"{digits} digits of up to {digit_px[1]} px fill {room:.0%} of a canvas of "
            f"{canvas_px[0]}x{canvas_px[1]} px; stay below 40 %: fewer digits or a larger canvas."
        )
    own_colours = digits if digits <= len(COLOURS) else 2 * len(COLOURS) - digits
    for family, least in (("colour", 1), ("caption", 1), ("where", 1), ("comparison", 2)):
        if family in families and own_colours < least:
            raise ValueError(
                f"Of {digits} digits {max(own_colours, 0)} have a colour to themselves; "
                f"{family!r} asks for {least}. Choose another number of digits or other families."
            )
