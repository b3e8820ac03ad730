"""A batch in smaller ones, though all its images lie in one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_arrcoc.data.collate import IGNORED_LABEL, Batch

MeanOver = Literal["questions", "answer_tokens"]


def cut_batch(batch: Batch, most: int) -> list[Batch]:
    """Parts of at most so many samples, as even as can be, in order.

    Columns that are padding in every row of a part are left out of it.

    Args:
        batch: as a `Collator` makes it.
        most: samples in a part.

    Raises:
        TypeError: the processor put something into it that is no tensor of a row a sample.
    """
    total = len(batch["answers"])
    parts = -(-total // most)
    bounds = [round(total * place / parts) for place in range(parts + 1)]
    first_image = [0, *accumulate(batch["images"])]
    found = []
    for start, end in pairwise(bounds):
        rows = slice(start, end)
        images = slice(first_image[start], first_image[end])
        found.append(
            Batch(
                inputs=_cut(batch["inputs"], rows, images),
                prompts=_cut(batch["prompts"], rows, images),
                answers=batch["answers"][rows],
                accepted=batch["accepted"][rows],
                families=batch["families"][rows],
                images=batch["images"][rows],
            )
        )
    return found


def shares(parts: Sequence[Batch], mean_over: MeanOver) -> list[float]:
    """By how much each part's mean counts in that of the whole; adds up to one, or to zero."""
    counts = [count_of(part, mean_over) for part in parts]
    whole = sum(counts)
    return [count / whole if whole else 0.0 for count in counts]


def count_of(part: Batch, mean_over: MeanOver) -> int:
    """Of how much a loss is the mean."""
    return _questions(part) if mean_over == "questions" else _answer_tokens(part)


def _questions(part: Batch) -> int:
    """About an image: others are not asked."""
    turns = part["inputs"].get("turns")
    if turns is None:
        return sum(images > 0 for images in part["images"])
    per_row = turns.amax(1).tolist()
    return sum(row for row, images in zip(per_row, part["images"], strict=True) if images)


def _answer_tokens(part: Batch) -> int:
    return int(torch.count_nonzero(part["inputs"]["labels"][:, 1:] != IGNORED_LABEL))


def _cut(inputs: dict[str, Any], rows: slice, images: slice) -> dict[str, Any]:
    if not inputs:
        return {}
    used = inputs["attention_mask"][rows].any(0).nonzero()
    columns = slice(int(used[0]), int(used[-1]) + 1)
    found: dict[str, Any] = {}
    for name, value in inputs.items():
        if name in ("image_grid_thw", "textures"):
            found[name] = value[images]
        elif name == "pixel_values":
            first_patch = [0, *accumulate(inputs["image_grid_thw"].prod(1).tolist())]
            found[name] = value[first_patch[images.start] : first_patch[images.stop]]
        elif isinstance(value, Tensor):
            found[name] = value[rows, columns]
        else:
            raise TypeError(f"inputs[{name!r}]: found {type(value).__name__}, expected a tensor.")
    if images.start == images.stop:
        for name in ("image_grid_thw", "textures", "pixel_values"):
            found.pop(name, None)
    return found
