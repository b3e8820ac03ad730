"""Checkpoints as files: written whole, brought to disk, read back, and loaded without code.

File and manifest (see `manifest`) are one, so they take their name in one step, `torch.load` and
stock Lightning read the file as any other, and what is cut or changed anywhere is found out.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch.utils.serialization import config as serialization

from lightning_arrcoc.atomic import replacing
from lightning_arrcoc.plugins.hashed_stream import HashedStream
from lightning_arrcoc.plugins.manifest import (
    HASH_LENGTH,
    LONGEST_COMMENT,
    RECORD,
    RECORD_BYTES,
    STAMPS,
    Manifest,
    damaged,
    manifest_of,
)
from lightning_arrcoc.plugins.unbuffered import write_at

LONGEST_REASON = 200  # Chosen by us: letters, so that a manifest fits into a comment


def write_checkpoint(checkpoint: Mapping[str, Any], path: str | Path) -> Manifest:
    """Save, on disk and verified before the name appears.

    Args:
        checkpoint: what `torch.save` takes, loadable with ``weights_only=True``.
        path: a local file; it is replaced.

    Raises:
        OSError: it cannot be written, or other bytes are on disk than were written. What stood
            there before still does.
        ValueError: it holds what `weights_only=True` will not load.
    """
    with replacing(path) as descriptor:
        return fill(descriptor, checkpoint)


def fill(descriptor: int, checkpoint: Mapping[str, Any]) -> Manifest:
    """Write a checkpoint into an empty file, bring it to disk and read it back.

    Raises:
        OSError, ValueError: as for `write_checkpoint`.
    """
    stream = HashedStream(descriptor)
    try:
        with without_crc32():
            torch.save(checkpoint, cast("IO[bytes]", stream))
        record = stream.held
        if len(record) != RECORD_BYTES or not record.startswith(RECORD):
            # Either a write failed, which finish() tells, or torch writes another kind of file.
            stream.finish()
            raise RuntimeError(f"torch.save ended with {record!r}, not with a zip's last record.")
        manifest = describe(checkpoint, stream.taken + RECORD_BYTES)
        comment = len(manifest.encode()).to_bytes(2, "little")
        manifest = manifest._replace(sha256=stream.finish(record[:-2] + comment))
        write_at(descriptor, manifest.encode(), manifest.size)
        os.fsync(descriptor)
        stream.read_back()
    finally:
        stream.close()
    if manifest_of(descriptor) != manifest:
        raise OSError(errno.EIO, "What was read back differs from what was written")
    refuse_objects(descriptor)
    return manifest


def describe(checkpoint: Mapping[str, Any], size: int) -> Manifest:
    """A manifest without its digest; metrics are left out where they would not fit."""
    stamps = checkpoint.get(STAMPS) or {}
    manifest = Manifest(
        step=int(checkpoint.get("global_step", 0)),
        epoch=int(checkpoint.get("epoch", 0)),
        size=size,
        sha256="0" * HASH_LENGTH,
        reason=str(stamps.get("reason", ""))[:LONGEST_REASON],
        metrics=dict(stamps.get("metrics", {})),
        versions=dict(stamps.get("versions") or {"torch": str(torch.__version__)}),
    )
    if len(manifest.encode()) > LONGEST_COMMENT:
        manifest = manifest._replace(metrics={})
    return manifest


def load_open(descriptor: int, name: str, map_location: Any = None) -> dict[str, Any]:
    """Load an open checkpoint: tensors and plain types, nothing else.

    Raises:
        DamagedCheckpointError: torch cannot read it.
        ValueError: it holds objects, whose loading could run code.
    """
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        try:
            content: dict[str, Any] = torch.load(file, map_location, weights_only=True)
        except Exception as error:
            if "weights_only" in str(error):  # torch's own words advise to load it unsafely
                raise ValueError(
                    f"{name!r} holds objects ({culprit(error)}), and loading objects can run code. "
                    "Only tensors and plain types are loaded: save it without them."
                ) from error
            why = (str(error).splitlines() or [""])[0]
            raise damaged(
                name, f"torch cannot read it ({type(error).__name__}: {why[:200]})"
            ) from error
    return content


def refuse_objects(descriptor: int) -> None:
    """Find out at once, not on the day it is needed, whether a checkpoint loads; reads no tensors.

    Raises:
        ValueError: it holds objects.
    """
    load_open(descriptor, "The checkpoint", "meta")


def culprit(error: Exception) -> str:
    """The name of what a safe load refuses, out of torch's message."""
    words = str(error).split("GLOBAL ")
    return words[1].split()[0] if len(words) > 1 else "of a type it does not name"


_WITHOUT_CRC32 = threading.Lock()
patch: Any = serialization.patch  # type: ignore[attr-defined]  # made at run time


@contextmanager
def without_crc32() -> Iterator[None]:
    """Archives are written without CRC-32s meanwhile, in all threads.

    They cost as much as the rest of the saving and protect less than the digest.
    """
    with _WITHOUT_CRC32, patch({"save.compute_crc32": False}):
        yield
