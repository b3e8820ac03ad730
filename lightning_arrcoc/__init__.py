"""Callbacks and plugins for PyTorch Lightning, and ARR-COC on Qwen3-VL.

Public names load on first use: a project that takes one callback imports neither transformers
nor kornia.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_arrcoc.data.datamodule import VqaDataModule
    from lightning_arrcoc.module import ArrCocModule
    from lightning_arrcoc.relevance import Allocation, RelevanceRealizer
    from lightning_arrcoc.vlm import ArrCocQwen3VL

__version__ = "0.1.0"
__all__ = ["Allocation", "ArrCocModule", "ArrCocQwen3VL", "RelevanceRealizer", "VqaDataModule"]

_HOMES = {
    "Allocation": "lightning_arrcoc.relevance",
    "ArrCocModule": "lightning_arrcoc.module",
    "ArrCocQwen3VL": "lightning_arrcoc.vlm",
    "RelevanceRealizer": "lightning_arrcoc.relevance",
    "VqaDataModule": "lightning_arrcoc.data.datamodule",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
