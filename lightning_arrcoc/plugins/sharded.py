"""Checkpoints that are folders: every rank writes its part, and one file says when all did.

FSDP with sharded states and DeepSpeed write such folders themselves, past any CheckpointIO. Rank
zero lists each file with size and digest in a marker, written last. A folder without one was not
finished. What a strategy itself runs into while writing is raised as it is, never endured.

Tried with Lightning's ModelParallelStrategy (FSDP2) and FSDPStrategy (FSDP1) in two processes on
CPUs. DeepSpeedStrategy, which writes its folders the same way, runs on GPUs alone and was not.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from lightning_arrcoc.atomic import sync_folder, write_atomically
from lightning_arrcoc.plugins.hashed_stream import digest_on_disk
from lightning_arrcoc.plugins.manifest import SCHEMA, DamagedCheckpointError, damaged
from lightning_arrcoc.plugins.unbuffered import start_writing_out
from lightning_arrcoc.plugins.verifying import opened

if TYPE_CHECKING:  # listing checkpoints imports this, and shall not take seconds
    import lightning.pytorch as pl
    from lightning.pytorch.strategies import Strategy

MARKER = "checkpoint.manifest.json"


def commit(folder: Path, step: int, stamps: Mapping[str, Any] | None = None) -> None:
    """Have every file on disk and write the marker. For rank zero, when all ranks have written.

    Raises:
        OSError: a file cannot be read or brought to disk; the folder stays uncommitted.
    """
    files = {}
    for path in _files(folder):
        with opened(path) as descriptor:
            os.fsync(descriptor)
            start_writing_out(descriptor)
            size = os.fstat(descriptor).st_size
            files[path.relative_to(folder).as_posix()] = [size, digest_on_disk(descriptor, size)]
    for inner in [path for path in folder.rglob("*") if path.is_dir()]:
        sync_folder(inner)
    sync_folder(folder)
    sync_folder(folder.parent)
    text = json.dumps({"schema": SCHEMA, "step": step, "files": files, **(stamps or {})})
    digest = hashlib.sha256(text.encode()).hexdigest()
    write_atomically(folder / MARKER, lambda file: file.write(f"{text}\n{digest}".encode()))


def retract(folder: Path) -> None:
    """Take the marker away, before a folder is written anew."""
    if (folder / MARKER).exists():
        (folder / MARKER).unlink()
        sync_folder(folder)


def read_marker(folder: Path) -> dict[str, Any] | None:
    """What `commit` wrote, None where it did not.

    Raises:
        DamagedCheckpointError: it is changed, or names files outside.
    """
    if not (folder / MARKER).is_file():
        return None
    text, _, digest = (folder / MARKER).read_bytes().rpartition(b"\n")
    if hashlib.sha256(text).hexdigest().encode() != digest:
        raise damaged(str(folder), "its manifest is changed")
    found: dict[str, Any] = json.loads(text)
    for name in found["files"]:
        if name.startswith("/") or ".." in PurePosixPath(name).parts or "\0" in name:
            raise damaged(str(folder), f"its manifest names {name!r}, outside of it")
    return found


def verify_folder(folder: Path) -> dict[str, Any] | None:
    """Compare every file with the marker; None where there is none.

    Raises:
        DamagedCheckpointError: a file is missing, changed or too many.
    """
    marker = read_marker(folder)
    if marker is None:
        return None
    present = {path.relative_to(folder).as_posix() for path in _files(folder)}
    if present != set(marker["files"]):
        other = ", ".join(sorted(present ^ set(marker["files"])))
        raise damaged(str(folder), f"files are missing or too many ({other})")
    for name, (size, digest) in marker["files"].items():
        with opened(folder / name) as descriptor:
            if os.fstat(descriptor).st_size != size or digest_on_disk(descriptor, size) != digest:
                raise damaged(str(folder), f"{name} does not match the manifest")
    return marker


def writes_folders(strategy: Strategy) -> bool:
    """Whether a strategy may save a folder instead of a file."""
    return (
        getattr(strategy, "_state_dict_type", "full") == "sharded"  # FSDP
        or getattr(strategy, "_save_distributed_checkpoint", False)  # ModelParallel
        or _is(strategy, "DeepSpeedStrategy")
    )


def rank_zero_has_all(trainer: pl.Trainer) -> bool:
    """Whether rank zero can save without the others: it holds every weight and every moment."""
    alone = trainer.world_size == 1 or _is(trainer.strategy, "DDPStrategy")
    split = any("ZeroRedundancy" in type(one).__name__ for one in trainer.optimizers)
    return alone and not split and not writes_folders(trainer.strategy)


def _is(strategy: Strategy, name: str) -> bool:
    """Whether it is of that class, without importing it."""
    return any(kind.__name__ == name for kind in type(strategy).__mro__)


def is_sharded(path: Path) -> bool:
    """Whether a folder looks like a checkpoint of a sharded strategy, finished or not."""
    return path.is_dir() and not path.is_symlink() and path.suffix == ".ckpt"


def sweep_uncommitted(folder: Path) -> list[Path]:
    """Remove unfinished checkpoints and name them.

    Only those that a run of ours began (`begin`); a folder of stock Lightning's is left alone.
    """
    swept = []
    for path in sorted(folder.glob("*.ckpt")):
        if is_sharded(path) and not (path / MARKER).exists() and _begun(path).exists():
            shutil.rmtree(path)
            _begun(path).unlink()
            swept.append(path)
    return swept


def begin(folder: Path) -> None:
    """Say that a folder is about to be written. For rank zero, before any rank does."""
    retract(folder)
    write_atomically(_begun(folder), lambda file: file.write(b""))


def finish(folder: Path) -> None:
    """Take back what `begin` said, once the folder is committed."""
    _begun(folder).unlink(missing_ok=True)


def was_begun(folder: Path) -> bool:
    """Whether a run of ours began to write it and did not finish."""
    return _begun(folder).exists()


def _begun(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.begun")


def _files(folder: Path) -> list[Path]:
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise DamagedCheckpointError(f"{str(path)!r} is a link, no file.")
        if path.is_file() and path != folder / MARKER:
            found.append(path)
    return found
