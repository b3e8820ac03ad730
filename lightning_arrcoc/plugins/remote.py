"""Checkpoints behind fsspec: object stores and the like."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from lightning_arrcoc.plugins.checkpoint_file import fill
from lightning_arrcoc.plugins.manifest import DamagedCheckpointError, Manifest
from lightning_arrcoc.plugins.verifying import verify_open

# Stores that a run can save to. What anyone can serve (http, ftp, github, ...) is not among them.
STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "hdfs", "webhdfs", "memory")
MARKER = ".manifest.json"  # beside an upload, written last


def is_remote(path: str) -> bool:
    """Whether a path leads to a store.

    Raises:
        ValueError: a URL of another kind, or a chain of them.
    """
    protocol, separator, _ = path.partition("://")
    if not separator or protocol == "file":
        return False
    if "::" in path or protocol not in STORES:
        raise ValueError(
            f"{path!r} is a URL; download it and name the file. Stores to save to and load from "
            f"are: {', '.join(STORES)}."
        )
    return True


def local_path(path: str) -> str:
    """A path without ``file://``."""
    return path.removeprefix("file://")


def upload(checkpoint: Mapping[str, Any], path: str) -> Manifest:
    """Save to a store: the file is written and verified here, sent, read back there; then a marker.

    Stores replace an object when the new one is complete; what a store without that leaves torn,
    the file's own manifest tells. The marker repeats that manifest, so that a folder can be listed
    without reading its files; it never vouches for a file alone.

    Raises:
        OSError: it cannot be written, sent, or read back.
    """
    store, place = _store(path)
    with tempfile.TemporaryFile() as file:
        manifest = fill(file.fileno(), checkpoint)
        store.makedirs(place.rpartition("/")[0], exist_ok=True)
        name = f"/proc/self/fd/{file.fileno()}"
        store.put_file(name, place) if Path(name).exists() else _copy(file, store, place)
    with downloaded(path) as copied, Path(copied).open("rb") as back:
        if verify_open(back.fileno(), path) != manifest:
            raise DamagedCheckpointError(f"{path!r} does not hold what was sent; save it again.")
    store.pipe_file(place + MARKER, json.dumps(manifest._asdict()).encode())
    return manifest


@contextmanager
def downloaded(path: str) -> Iterator[str]:
    """A temporary local copy.

    Raises:
        FileNotFoundError: there is no such object.
    """
    store, place = _store(path)
    if not store.exists(place):
        raise FileNotFoundError(f"Checkpoint file not found: {path}")
    with tempfile.TemporaryDirectory() as folder:
        store.get_file(place, f"{folder}/copy")
        yield f"{folder}/copy"


def remove(path: str) -> None:
    """The marker first: what it stands for must not outlive it."""
    store, place = _store(path)
    for name in (place + MARKER, place):
        if store.exists(name):
            store.rm(name, recursive=True)


def listed(folder: str) -> list[tuple[int, str]]:
    """Step and place of each checkpoint of a folder, by its marker; damaged markers are passed."""
    store, place = _store(folder)
    found = []
    for name in store.glob(f"{place.rstrip('/')}/*{MARKER}"):
        with suppress(ValueError, KeyError, TypeError):
            step = int(json.loads(store.cat_file(name))["step"])
            bare = name.rpartition("/")[2].removesuffix(MARKER)
            found.append((step, f"{folder.rstrip('/')}/{bare}"))
    return found


def rename(path: str, to: str) -> str:
    """Move an object and take its marker away; its new place."""
    (store, place), (_, target) = _store(path), _store(to)
    if store.exists(place + MARKER):
        store.rm(place + MARKER)
    store.mv(place, target)
    return to


def _store(path: str) -> tuple[Any, str]:
    store, place = url_to_fs(path)
    return store, place


def _copy(file: Any, store: Any, place: str) -> None:
    file.seek(0)
    with store.open(place, "wb") as target:
        while chunk := file.read(8 << 20):
            target.write(chunk)
