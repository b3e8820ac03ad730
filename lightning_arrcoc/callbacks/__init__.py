"""Callbacks for any Lightning project, one behaviour a file; public names load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

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

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "atomic_checkpoint": ["AtomicCheckpoint"],
        "curriculum": ["CurriculumAdvance"],
        "gradient_monitor": ["GradientMonitor"],
        "memory_guard": ["MemoryGuard"],
        "memory_monitor": ["MemoryMonitor"],
        "memory_snapshot": ["MemorySnapshot"],
        "oom_guard": ["OOMGuard"],
        "overfitting_detector": ["OverfittingDetector"],
        "progress_bar": ["MetricsProgressBar"],
        "throughput_monitor": ["ThroughputMonitor"],
    },
)
