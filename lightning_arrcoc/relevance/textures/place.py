"""Place channels, and what is remembered of a turn or frame before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_arrcoc.relevance.textures.picture import CELL_PX, Picture, per_cell


class Previous(NamedTuple):
    """The frame or turn before, for images of the same size. What is None counts as nothing.

    Attributes:
        images: RGB in [0, 1] ``(I, 3, h, w)``; for motion.
        saliency: ``(I, H, W)`` in [0, 1].
        relevance: ``(I, H, W)`` in [0, 1].
    """

    images: Tensor | None = None
    saliency: Tensor | None = None
    relevance: Tensor | None = None

    def image(self, index: int) -> Previous:
        """What was seen of one image, without the axis I."""
        return Previous(*(None if values is None else values[index] for values in self))


def side_by_side(previous: Sequence[Previous | None], images_I3hw: Tensor) -> Previous | None:
    """What was seen before of several images, of which some may be new.

    Args:
        previous: for each image, without the axis I; None for a first frame or turn.
        images_I3hw: the images now.

    Returns:
        None where all are new. One that is new has not moved.

    Raises:
        ValueError: an image had another size before.
    """
    if all(known is None for known in previous):
        return None
    height, width = images_I3hw.shape[-2:]
    nothing = images_I3hw.new_zeros(height // CELL_PX, width // CELL_PX)
    found: list[list[Tensor]] = []
    for known, image in zip(previous, images_I3hw, strict=True):
        unmoved = (image, nothing, nothing)
        pairs = zip(Previous._fields, known or Previous(), unmoved, strict=True)
        found.append([_of_size(name, value, instead) for name, value, instead in pairs])
    return Previous(*(torch.stack(values) for values in zip(*found, strict=True)))


def place(picture: Picture) -> dict[str, Tensor]:
    """Where each cell lies."""
    count, _, height, width = picture.images_I3hw.shape
    rows, columns = height // CELL_PX, width // CELL_PX
    centres = [
        (torch.arange(n, device=picture.images_I3hw.device, dtype=torch.float32) + 0.5) / n
        for n in (rows, columns)
    ]
    y, x = torch.meshgrid(*centres, indexing="ij")
    from_middle = torch.hypot((y - 0.5) * height, (x - 0.5) * width)
    maps = {"y": y, "x": x, "eccentricity": from_middle / (0.5 * (height**2 + width**2) ** 0.5)}
    return {name: values.expand(count, rows, columns) for name, values in maps.items()}


def remembered(picture: Picture, previous: Previous) -> dict[str, Tensor]:
    """Motion, saliency and relevance of the turn before; zeros for a first one.

    Raises:
        ValueError: the turn before had another size.
    """
    count, _, height, width = picture.images_I3hw.shape
    nothing = picture.images_I3hw.new_zeros(count, height // CELL_PX, width // CELL_PX)
    motion = nothing
    if previous.images is not None:
        before = Picture(_of_size("images", previous.images, picture.images_I3hw))
        motion = per_cell((picture.luma_Ihw - before.luma_Ihw).abs())
    return {
        "motion": motion,
        "previous_saliency": _of_size("saliency", previous.saliency, nothing),
        "previous_relevance": _of_size("relevance", previous.relevance, nothing),
    }


def _of_size(name: str, found: Tensor | None, expected: Tensor) -> Tensor:
    """What was found, with type and device of what is expected; that itself where it is None."""
    if found is None:
        return expected
    if found.shape != expected.shape:
        raise ValueError(
            f"previous.{name} has shape {tuple(found.shape)}; expected {tuple(expected.shape)}, "
            "that of the images now. Start anew (previous=None) when the size changes."
        )
    return found.to(expected)
