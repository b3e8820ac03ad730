"""Loggers for any Lightning project; public names load on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_arrcoc.loggers.jsonl import JsonlLogger
    from lightning_arrcoc.loggers.jsonl_file import read_runs

__all__ = ["JsonlLogger", "read_runs"]

_HOMES = {
    "JsonlLogger": "lightning_arrcoc.loggers.jsonl",
    "read_runs": "lightning_arrcoc.loggers.jsonl_file",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
