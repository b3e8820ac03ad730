"""What AtomicCheckpoint remembers of what it saved, and takes back when a save fails."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

# What ModelCheckpoint changes before and while it saves.
BOOKKEEPING = (
    "best_k_models",
    "best_model_path",
    "best_model_score",
    "current_score",
    "kth_best_model_path",
    "kth_value",
    "last_model_path",
    "_last_checkpoint_saved",
    "_last_global_step_saved",
)


def remember(owner: Any) -> dict[str, Any]:
    """A copy of the bookkeeping."""
    return {name: copy.copy(getattr(owner, name)) for name in BOOKKEEPING}


def restore(owner: Any, remembered: dict[str, Any]) -> None:
    """As it was, as if the save had never been tried."""
    for name, value in remembered.items():
        setattr(owner, name, value)


class Series:
    """Checkpoints of one kind, of which the latest few are kept.

    Args:
        keep: how many; -1 keeps all.
    """

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.paths: list[str] = []

    def add(self, path: str, remove: Callable[[str], None]) -> None:
        """Count one in that is saved, and remove those that are too many."""
        self.paths = [*(known for known in self.paths if known != path), path]
        while 0 <= self.keep < len(self.paths):
            remove(self.paths.pop(0))


def refuse_tricks(filename: str | None) -> None:
    """A name stays in its folder.

    Raises:
        ValueError: it leads out of it, or no file can bear it.
    """
    if filename is None:
        return
    parts = PurePath(filename)
    if parts.is_absolute() or ".." in parts.parts or "\0" in filename or not filename.strip():
        raise ValueError(
            f"filename={filename!r} leads out of the folder; expected a name such as "
            "'{epoch}-{step}', and the folder as dirpath."
        )
