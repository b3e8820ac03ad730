"""How many processes prepare samples."""

from __future__ import annotations

import os

MOST_WORKERS = 8
# Chosen by us: with one or two workers the first batch came 0.1 to 0.2 s later than without, on two
# cores of an AMD EPYC; meanwhile the process itself encodes 8 to 16 canvases of 384 x 384 px.
TINY = 16


def worker_count(samples: int, processes: int = 1) -> int:
    """Workers of each training process: one a core, at most eight, none for a handful of samples.

    Args:
        samples: of the source.
        processes: training processes that share this machine's cores.
    """
    if samples <= TINY:
        return 0
    return max(1, min(MOST_WORKERS, available_cores() // processes))


def available_cores() -> int:
    """Cores that this process may use; macOS and Windows cannot say so exactly."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1
