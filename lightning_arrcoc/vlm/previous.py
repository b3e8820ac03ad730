"""What was seen before of the images of a batch: one frame or one question ago."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lightning_arrcoc.relevance import Previous
from lightning_arrcoc.relevance.textures import side_by_side


def check_previous(
    previous: Sequence[Previous | None] | None, images: int, textures: Sequence[Tensor] | None
) -> None:
    """Whether it can be compared with this batch; sizes are checked where they are compared.

    Args:
        previous: for each image what was seen before, None for a new one; empty where all are.
        images: how many the batch holds.
        textures: those that were made before, if any.

    Raises:
        TypeError: an entry is neither a `Previous` nor None.
        ValueError: not one for each image, or beside `textures`.
    """
    known = previous or ()
    for place, entry in enumerate(known):
        if entry is not None and not isinstance(entry, Previous):
            raise TypeError(
                f"previous[{place}] is a {type(entry).__name__}; expected `seen` of the output "
                "before: a Previous for each image, or None for a new one."
            )
    if known and len(known) != images:
        raise ValueError(
            f"previous holds {len(known)} entries for {images} images; expected one for each, "
            "None for a new one."
        )
    if textures is not None and any(entry is not None for entry in known):
        raise ValueError(
            "`previous` is compared with the images, but `textures` made before were given. Leave "
            "one of them out."
        )


def previous_of(
    previous: Sequence[Previous | None] | None, group: Sequence[int], images_I3hw: Tensor | None
) -> Previous | None:
    """What was seen before of a group of a batch's images, all of one size.

    Raises:
        ValueError: one had another size before.
    """
    if not previous or images_I3hw is None:
        return None
    return side_by_side([previous[i] for i in group], images_I3hw)
