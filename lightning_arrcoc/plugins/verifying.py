"""Whether a checkpoint is what was saved: read to its end, without loading anything of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_arrcoc.plugins.hashed_stream import digest_on_disk
from lightning_arrcoc.plugins.manifest import (
    DamagedCheckpointError,
    Manifest,
    damaged,
    manifest_of,
)

READ_ONLY = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


@contextmanager
def opened(path: str | Path) -> Iterator[int]:
    """A checkpoint's descriptor.

    Raises:
        FileNotFoundError: there is none.
        DamagedCheckpointError: what bears the name is no regular file.
    """
    try:
        descriptor = os.open(path, READ_ONLY)
    except FileNotFoundError:
        raise FileNotFoundError(f"Checkpoint file not found: {path}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise DamagedCheckpointError(f"{str(path)!r} is no regular file; name a checkpoint.")
        yield descriptor
    finally:
        os.close(descriptor)


def verify(path: str | Path) -> Manifest | None:
    """Read a checkpoint from beginning to end and compare it with its manifest.

    Returns:
        The manifest, None for a file without one: stock Lightning's.

    Raises:
        DamagedCheckpointError: they differ, or it is no checkpoint.
        OSError: it cannot be read.
    """
    with opened(path) as descriptor:
        return verify_open(descriptor, str(path))


def verify_open(descriptor: int, name: str = "the file") -> Manifest | None:
    """As `verify`, of an open file."""
    manifest = manifest_of(descriptor, name)
    if manifest and digest_on_disk(descriptor, manifest.size) != manifest.sha256:
        raise damaged(name, "its content does not match its manifest")
    return manifest


def read_manifest(path: str | Path) -> Manifest | None:
    """As `verify`, by the manifest and the file's length alone: quick, and blind to the content."""
    with opened(path) as descriptor:
        return manifest_of(descriptor, str(path))
