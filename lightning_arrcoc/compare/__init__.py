"""Checkpoints side by side on one backbone; public names load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from lightning_arrcoc.compare.comparator import CheckpointComparator
    from lightning_arrcoc.compare.contestants import Contestant, reallocate
    from lightning_arrcoc.compare.errors import CompareError

__all__ = ["CheckpointComparator", "CompareError", "Contestant", "reallocate"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "comparator": ["CheckpointComparator"],
        "contestants": ["Contestant", "reallocate"],
        "errors": ["CompareError"],
    },
)
