"""What goes between the process that answers HTTP and the one with the model.

Plain values and images alone: tensors would travel as shared memory, and outlive their use.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from lightning_arrcoc.relevance import Allocation
from lightning_arrcoc.vlm.answering import Piece, Prompt

TENSIONS = ("exploit", "compress", "focus")


class Job(NamedTuple):
    """A prompt, and whether its answer tells what was kept.

    Attributes:
        prompt: what is asked.
        explain: tell what was kept.
        stream: tell every piece as soon as it is there; else all at once.
    """

    prompt: Prompt
    explain: bool = False
    stream: bool = False


class Told(NamedTuple):
    """A piece of an answer.

    Attributes:
        text: what is new.
        reason: why the answer ended, in its last piece; None before.
        tokens: of the answer so far.
        visual: tokens that were read of all images, in the last piece.
        images: what was kept of each, in the last piece where it was asked for.
    """

    text: str
    reason: Literal["stop", "length", "timeout", "error"] | None
    tokens: int = 0
    visual: int = 0
    images: list[dict[str, Any]] | None = None


def told(job: Job, piece: Piece) -> Told:
    """A piece as it travels."""
    visual = sum(len(allocation.levels) for allocation in piece.allocations)
    images = None
    if job.explain and piece.reason is not None:
        pairs = zip(job.prompt.images, piece.allocations, strict=False)  # none where it was late
        images = [explained(image.size, allocation) for image, allocation in pairs]
    return Told(piece.text, piece.reason, piece.tokens, visual, images)


def explained(size: tuple[int, int], allocation: Allocation) -> dict[str, Any]:
    """One image: its kept tokens as boxes of cells, tensions, and the map they were chosen by.

    Args:
        size: in pixels, as the model read it.
        allocation: of the image.

    Returns:
        ``kept`` has for each token its ``cells``, first row and column and those behind the last,
        and its ``level``; ``relevance`` is a row of cells a list.
    """
    rows, columns = allocation.relevance.shape
    boxes = allocation.boxes.tolist()
    tensions = [round(float(value), 4) for value in allocation.tensions]
    return {
        "width": size[0],
        "height": size[1],
        "grid": [rows, columns],
        "tokens": len(boxes),
        "tokens_of_all": rows * columns,
        "kept": [
            {"cells": box, "level": level}
            for box, level in zip(boxes, allocation.levels.tolist(), strict=True)
        ],
        "tensions": dict(zip(TENSIONS, tensions, strict=True)),
        "relevance": [[round(value, 4) for value in row] for row in allocation.relevance.tolist()],
    }
