"""Profilers for any Lightning project: ``Trainer(profiler=...)``."""

from lightning_arrcoc.profilers.steps_profiler import StepsProfiler

__all__ = ["StepsProfiler"]
