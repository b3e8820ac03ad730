"""Callbacks for any Lightning project, one behaviour a file; public names load on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_arrcoc.callbacks.atomic_checkpoint import AtomicCheckpoint
    from lightning_arrcoc.callbacks.curriculum import CurriculumAdvance
    from lightning_arrcoc.callbacks.gradient_monitor import GradientMonitor
    from lightning_arrcoc.callbacks.memory_guard import MemoryGuard
    from lightning_arrcoc.callbacks.memory_monitor import MemoryMonitor
    from lightning_arrcoc.callbacks.memory_snapshot import MemorySnapshot
    from lightning_arrcoc.callbacks.oom_guard import OOMGuard
    from lightning_arrcoc.callbacks.overfitting_detector import OverfittingDetector
    from lightning_arrcoc.callbacks.progress_bar import MetricsProgressBar
    from lightning_arrcoc.callbacks.throughput_monitor import ThroughputMonitor

__all__ = [
    "AtomicCheckpoint",
    "CurriculumAdvance",
    "GradientMonitor",
    "MemoryGuard",
    "MemoryMonitor",
    "MemorySnapshot",
    "MetricsProgressBar",
    "OOMGuard",
    "OverfittingDetector",
    "ThroughputMonitor",
]

_HOMES = {
    "AtomicCheckpoint": "lightning_arrcoc.callbacks.atomic_checkpoint",
    "CurriculumAdvance": "lightning_arrcoc.callbacks.curriculum",
    "GradientMonitor": "lightning_arrcoc.callbacks.gradient_monitor",
    "MemoryGuard": "lightning_arrcoc.callbacks.memory_guard",
    "MemoryMonitor": "lightning_arrcoc.callbacks.memory_monitor",
    "MemorySnapshot": "lightning_arrcoc.callbacks.memory_snapshot",
    "MetricsProgressBar": "lightning_arrcoc.callbacks.progress_bar",
    "OOMGuard": "lightning_arrcoc.callbacks.oom_guard",
    "OverfittingDetector": "lightning_arrcoc.callbacks.overfitting_detector",
    "ThroughputMonitor": "lightning_arrcoc.callbacks.throughput_monitor",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
