"""What the CUDA allocator did, written so that it can be looked at."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lightning_arrcoc.atomic import write_atomically

ENTRIES = 100_000
"""Chosen by us: some hundred steps of a large model, a few hundred MB of main memory."""

_users: set[object] = set()


def can_record() -> bool:
    """Whether there is an allocator that keeps a history."""
    return torch.cuda.is_available()


def start(user: object, entries: int = ENTRIES) -> None:
    """Have the allocator remember what it does, until the last user stops it."""
    if can_record() and not _users:
        torch.cuda.memory._record_memory_history(
            "all", context="alloc", stacks="python", max_entries=entries, clear_history=True
        )
    _users.add(user)


def stop(user: object) -> None:
    """Harmless when repeated."""
    if user in _users:
        _users.remove(user)
        if can_record() and not _users:
            torch.cuda.memory._record_memory_history(None)


def take() -> Any:
    """What is allocated now, and how it came to that; None without an allocator."""
    return torch.cuda.memory._snapshot() if can_record() else None


def write(snapshot: Any, folder: Path, name: str = "snapshot") -> list[Path]:
    """Write `name.pickle`, as pytorch.org/memory_viz takes it, and `name.html`, a timeline.

    Both are torch's own and made here, without a network. The page holds all data; when it is
    opened, the browser loads torch's viewer, a script, from a content delivery network.
    """
    # Imported here: it parses a page of templates that no run without an error needs.
    from torch.cuda._memory_viz import trace_plot

    timeline: str = trace_plot(snapshot)  # type: ignore[no-untyped-call]
    pickled, page = folder / f"{name}.pickle", folder / f"{name}.html"
    write_atomically(pickled, lambda file: pickle.dump(snapshot, file))
    write_atomically(page, lambda file: file.write(timeline.encode()))
    return [pickled, page]


class Failure(NamedTuple):
    """An allocation that failed, as the allocator told it before it raised.

    Attributes:
        asked: bytes.
        free: bytes, on the device.
        snapshot: what was allocated then.
    """

    asked: int
    free: int
    snapshot: Any


_failures: list[Failure] = []
_is_watching = False


def watch_failures() -> None:
    """Have the allocator tell of failures from now on, for as long as the process lasts."""
    global _is_watching
    attach = getattr(torch._C, "_cuda_attach_out_of_memory_observer", None)
    if attach is None or _is_watching or not can_record():
        return

    def observe(device: int, asked: int, allocated: int, free: int) -> None:
        if _users:
            _failures[:] = [Failure(asked, free, take())]

    attach(observe)
    _is_watching = True


def last_failure() -> Failure | None:
    """The last one, which is forgotten then."""
    return _failures.pop() if _failures else None
