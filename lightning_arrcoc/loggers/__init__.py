"""Loggers for any Lightning project; public names load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from lightning_arrcoc.loggers.jsonl import JsonlLogger
    from lightning_arrcoc.loggers.jsonl_file import read_runs

__all__ = ["JsonlLogger", "read_runs"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "jsonl": ["JsonlLogger"],
        "jsonl_file": ["read_runs"],
    },
)
