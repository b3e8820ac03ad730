"""Plugins for any Lightning project; public names load on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_arrcoc.plugins.atomic_checkpoint_io import AtomicCheckpointIO
    from lightning_arrcoc.plugins.fp32 import full_precision
    from lightning_arrcoc.plugins.precision_probe import probe_precision
    from lightning_arrcoc.plugins.selective_precision import SelectivePrecision

__all__ = ["AtomicCheckpointIO", "SelectivePrecision", "full_precision", "probe_precision"]

_HOMES = {
    "AtomicCheckpointIO": "lightning_arrcoc.plugins.atomic_checkpoint_io",
    "SelectivePrecision": "lightning_arrcoc.plugins.selective_precision",
    "full_precision": "lightning_arrcoc.plugins.fp32",
    "probe_precision": "lightning_arrcoc.plugins.precision_probe",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
