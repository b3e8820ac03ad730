"""Pictures to begin with: a folder's, or some that the embedded backbone knows how to read."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from lightning_arrcoc.compare.page.pictures import png_url
from lightning_arrcoc.data.images import open_image

SUFFIXES = (".png", ".webp", ".jpg", ".jpeg")
MOST_EXAMPLES = 8  # chosen by us: they are sent with the page
MOST_SIDE_PX = 1024
DIGITS = 6


class Example(NamedTuple):
    """A picture that is offered.

    Attributes:
        url: PNG, as a data URL.
        question: to go with it; empty: the one that stands there stays.
        title: shown when it is pointed at.
    """

    url: str
    question: str
    title: str


def from_folder(folder: str | Path) -> list[Example]:
    """The first pictures of a folder, by name. A ``.txt`` of the same name holds a question.

    Raises:
        ValueError: there is no such folder, no picture in it, or one that cannot be opened.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"examples={str(folder)!r} is no folder; expected one with PNG or WebP.")
    files = sorted(path for path in root.iterdir() if path.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"examples={str(folder)!r} holds no picture; expected PNG or WebP.")
    return [_example(path) for path in files[:MOST_EXAMPLES]]


def _example(path: Path) -> Example:
    image = open_image(path)
    image.thumbnail((MOST_SIDE_PX, MOST_SIDE_PX))
    beside = path.with_suffix(".txt")
    question = beside.read_text("utf-8").strip() if beside.is_file() else ""
    return Example(png_url(image), question, question or path.stem)


def of_digits() -> list[Example]:
    """Canvases of the test split with their questions; none without scikit-learn."""
    if find_spec("sklearn") is None:
        return []
    from lightning_arrcoc.data.digits import DigitQuestions

    source = DigitQuestions("test", DIGITS)
    samples = [source[number] for number in range(DIGITS)]
    return [
        Example(png_url(one.images[0]), one.turns[0].question, one.turns[0].question)
        for one in samples
    ]
