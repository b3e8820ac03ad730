"""Checkpoints side by side on one backbone; public names load on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_arrcoc.compare.comparator import CheckpointComparator
    from lightning_arrcoc.compare.contestants import Contestant, reallocate
    from lightning_arrcoc.compare.errors import CompareError

__all__ = ["CheckpointComparator", "CompareError", "Contestant", "reallocate"]

_HOMES = {
    "CheckpointComparator": "lightning_arrcoc.compare.comparator",
    "CompareError": "lightning_arrcoc.compare.errors",
    "Contestant": "lightning_arrcoc.compare.contestants",
    "reallocate": "lightning_arrcoc.compare.contestants",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
