"""How the process keeps its memory."""

from __future__ import annotations

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h
NEVER_TRIM = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let malloc reuse what was freed instead of handing it back to the system.

    A training step on a CPU frees and asks for the same large blocks again and again; by default
    glibc unmaps and maps each, and a third of the step is spent in the kernel. The process keeps
    its peak memory until it ends.

    Returns:
        Whether the C library could be told; only glibc can.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(M_TRIM_THRESHOLD, NEVER_TRIM) and mallopt(M_MMAP_MAX, 0))
    return False
