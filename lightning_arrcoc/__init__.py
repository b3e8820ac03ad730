"""Callbacks and plugins for PyTorch Lightning, and ARR-COC on Qwen3-VL.

Public names load on first use: a project that takes one callback imports neither transformers
nor kornia.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from lightning_arrcoc.data.datamodule import VqaDataModule
    from lightning_arrcoc.module import ArrCocModule
    from lightning_arrcoc.relevance import Allocation, RelevanceRealizer
    from lightning_arrcoc.vlm import ArrCocQwen3VL

__version__ = "0.1.0"
__all__ = ["Allocation", "ArrCocModule", "ArrCocQwen3VL", "RelevanceRealizer", "VqaDataModule"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "data.datamodule": ["VqaDataModule"],
        "module": ["ArrCocModule"],
        "relevance": ["Allocation", "RelevanceRealizer"],
        "vlm": ["ArrCocQwen3VL"],
    },
)
