"""One visual question: what every source yields and the collator consumes."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from PIL import Image


class Turn(NamedTuple):
    """A question and its answer.

    Attributes:
        question: as it is asked.
        answer: what is trained on.
        accepted: where several answers count as right, all of them, repetitions included: the ten
            of VQA. Empty where `answer` alone does.
    """

    question: str
    answer: str
    accepted: tuple[str, ...] = ()

    @property
    def truths(self) -> tuple[str, ...]:
        """Every answer that counts as right; never empty."""
        return self.accepted or (self.answer,)


class Box(NamedTuple):
    """A rectangle in pixels of the image; right and bottom are exclusive."""

    left: float
    top: float
    right: float
    bottom: float


class Sample(NamedTuple):
    """Images and the turns asked about them, in order.

    Attributes:
        images: RGB pictures, shown before the first question.
        turns: one or more questions with their answers.
        family: the kind of the first question, a row of the result tables.
        evidence: where the first answer can be read off the first image; known for synthetic
            images only, and seen by nothing but the oracle selector and pictures.
        digests: sha256 hex of the encoded bytes that each image was decoded from, where the source
            knows them and made nothing of the image but what they say; empty otherwise. What is
            kept on disk of an image is found by it.
    """

    images: tuple[Image.Image, ...]
    turns: tuple[Turn, ...]
    family: str = "all"
    evidence: tuple[Box, ...] = ()
    digests: tuple[str, ...] = ()


class Source(Protocol):
    """Samples by index: a map-style data set, or a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...
