"""Ways to save: ours, mutants that lack a part of it, and stock Lightning."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from lightning_arrcoc.plugins.atomic_checkpoint_io import AtomicCheckpointIO
from lightning_arrcoc.plugins.manifest import DamagedCheckpointError
from lightning_arrcoc.plugins.verifying import verify

MIB = int(os.environ.get("CHECKPOINT_MIB", "1"))


def state(step: int) -> dict[str, Any]:
    """A checkpoint that tells its step by every number."""
    return {"global_step": step, "state_dict": {"weight": torch.full((MIB << 18,), float(step))}}


def ours(step: int, path: Path) -> None:
    AtomicCheckpointIO().save_checkpoint(state(step), path)


def without_fsync(step: int, path: Path) -> None:
    """Ours, if nothing were brought to disk."""
    real, os.fsync = os.fsync, lambda descriptor: None
    try:
        ours(step, path)
    finally:
        os.fsync = real


def by_tmpdir(step: int, path: Path) -> None:
    """Ours, if it wrote to TMPDIR and copied from there, as a move to another file system does."""
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / path.name
        ours(step, written)
        with written.open("rb") as source, path.open("wb", buffering=0) as target:
            while piece := source.read(256):
                target.write(piece)


def stock(step: int, path: Path) -> None:
    TorchCheckpointIO().save_checkpoint(state(step), path)


SAVERS = {"ours": ours, "without_fsync": without_fsync, "by_tmpdir": by_tmpdir, "stock": stock}


def step_in(path: Path) -> int | None:
    """The step of a whole checkpoint, -1 where there is none, None where it is torn."""
    if not path.exists():
        return -1
    try:
        verify(path)
        content = torch.load(path, weights_only=True)
    except (DamagedCheckpointError, RuntimeError, EOFError):
        return None
    step = int(content["global_step"])
    return step if bool((content["state_dict"]["weight"] == step).all()) else None
