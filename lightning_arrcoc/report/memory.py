"""The most memory that each phase of each run took."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from lightning_arrcoc.report.run import Run

PEAK = re.compile(r"memory/(.+)_peak_gib")
# Over the whole run; tensors on an accelerator, then what is taken for them, then main memory.
WHOLE = {
    "memory/allocated_peak_gib": "whole run, tensors",
    "memory/reserved_peak_gib": "whole run, reserved",
    "memory/device_gib": "whole run, device",
    "memory/rss_gib": "whole run, main memory",
}


class Phase(NamedTuple):
    """A row: what each run took at most, in GiB, and the share of the largest figure."""

    name: str
    cells: list[tuple[float, float] | None]


def memory_by_phase(runs: Sequence[Run]) -> list[Phase]:
    """Phases as MemoryMonitor(detail=True) logs them, after the figures of the whole run."""
    names = dict.fromkeys(metric for run in runs for metric in run.curves)
    phases = {
        metric: match[1].replace("_", " ")
        for metric in names
        if metric not in WHOLE and (match := PEAK.fullmatch(metric))
    }
    shown = {metric: words for metric, words in WHOLE.items() if metric in names} | phases
    found = {words: [_most(run, metric) for run in runs] for metric, words in shown.items()}
    most = max((v for row in found.values() for v in row if v is not None), default=0.0) or 1.0
    return [
        Phase(words, [None if value is None else (value, value / most) for value in row])
        for words, row in found.items()
    ]


def tells_phases(phases: Sequence[Phase]) -> bool:
    """Whether more is known than of the whole run."""
    return any(phase.name not in WHOLE.values() for phase in phases)


def _most(run: Run, metric: str) -> float | None:
    curve = run.curves.get(metric)
    values = curve.finite.values if curve is not None else ()
    return float(max(values)) if len(values) else None
