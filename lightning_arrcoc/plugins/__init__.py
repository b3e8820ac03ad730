"""Plugins for any Lightning project; public names load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from lightning_arrcoc.plugins.atomic_checkpoint_io import AtomicCheckpointIO
    from lightning_arrcoc.plugins.fp32 import full_precision
    from lightning_arrcoc.plugins.precision_probe import probe_precision
    from lightning_arrcoc.plugins.selective_precision import SelectivePrecision

__all__ = ["AtomicCheckpointIO", "SelectivePrecision", "full_precision", "probe_precision"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "atomic_checkpoint_io": ["AtomicCheckpointIO"],
        "fp32": ["full_precision"],
        "precision_probe": ["probe_precision"],
        "selective_precision": ["SelectivePrecision"],
    },
)
