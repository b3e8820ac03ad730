"""LMDB files as this process has them open: each once, and none across a fork.

LMDB locks by process. A file that is opened twice in one process, or used by a child that inherited
it, loses its locks without a word; so all use goes through here.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import lmdb

Found = TypeVar("Found")
FORMAT_KEY, FORMAT = b"format", 1  # raise it when what lies under a key is written otherwise
READERS = 1024  # that may look something up at the very same time; chosen by us, 64 bytes each
START_MAP = 2**26  # bytes; chosen by us, it doubles whenever it is full
LEAST_PAGE = 4096  # bytes; LMDB takes the system's, which is never smaller
LOCK = threading.RLock()  # of the two below, and of every use of what is open
_open: dict[Path, lmdb.Environment] = {}
_written: set[Path] = set()  # those that this process writes


def look_up(path: Path, key: bytes, use: Callable[[memoryview | None], Found]) -> Found:
    """What `use` makes of a value, or of None where there is none; the bytes are its own no longer.

    Raises:
        ValueError: the file is damaged, or another version wrote it.
    """
    with LOCK:
        while True:
            try:
                with opened(path).begin(buffers=True) as transaction:
                    return use(transaction.get(key))
            except lmdb.MapResizedError:  # a writer made it larger, perhaps while it was opened
                close(path)
            except lmdb.ReadersFullError:
                if path not in _open or not _open[path].reader_check():  # none died in its place
                    time.sleep(0.001)


def write(path: Path, values: Mapping[bytes, bytes]) -> None:
    """Write all of them or none; they are on disk when it returns.

    Raises:
        OSError: the disk is full, or refuses for another reason. What was there still is.
    """
    with LOCK:
        while True:
            environment = opened(path)
            try:
                with environment.begin(write=True) as transaction:
                    for key, value in values.items():
                        transaction.put(key, value)
                return
            except lmdb.MapFullError:
                environment.set_mapsize(2 * environment.info()["map_size"])
            except lmdb.Error as error:
                raise OSError(_refusal(path, values, error)) from error


def count(path: Path) -> int:
    """Values in a file, its own record aside."""
    with LOCK:
        ours = look_up(path, FORMAT_KEY, _is_there)
        return int(opened(path).stat()["entries"]) - ours


def start_writing(path: Path) -> None:
    """Make the file, or go on with one; this process must be the only one that writes it.

    Raises:
        OSError: it cannot be made.
        ValueError: the file is damaged, or another version wrote it.
    """
    with LOCK:
        close(path)
        if path.exists() and is_unborn(path):
            path.unlink()
        _written.add(path)
        opened(path).reader_check()
        if not look_up(path, FORMAT_KEY, _is_there):
            write(path, {FORMAT_KEY: str(FORMAT).encode()})


def stop_writing(path: Path) -> None:
    """Close it; who looks something up opens it again."""
    with LOCK:
        _written.discard(path)
        close(path)


def close(path: Path) -> None:
    """Close it in this process, where it is open."""
    with LOCK:
        if path in _open:
            _open.pop(path).close()


def opened(path: Path) -> lmdb.Environment:
    """The file as this process has it open; to be used while `LOCK` is held.

    Raises:
        OSError: it cannot be opened.
        ValueError: the file is damaged, or another version wrote it.
    """
    if path not in _open:
        try:
            environment = _opened_anew(path)
        except (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError) as error:
            raise ValueError(
                f"{str(path)!r} is damaged, or no LMDB file ({error}). Name another folder, or "
                f"build it anew: {_rebuild(path)}"
            ) from error
        except lmdb.Error as error:
            raise OSError(f"{str(path)!r} cannot be opened: {error}") from error
        try:
            _check(path, environment)
        except BaseException:
            environment.close()
            raise
        _open[path] = environment
    return _open[path]


def is_unborn(path: Path) -> bool:
    """Whether its writer was killed before the first two pages, which say what the file is."""
    return path.stat().st_size < 2 * LEAST_PAGE


def _opened_anew(path: Path) -> lmdb.Environment:
    name = str(path)
    if path in _written:
        environment = lmdb.open(
            name, subdir=False, map_size=START_MAP, max_readers=READERS, readahead=False
        )
        _lay_out_locks(path)
        return environment

    def read(lock: bool) -> lmdb.Environment:
        return lmdb.open(
            name, subdir=False, readonly=True, create=False, map_size=0,
            max_readers=READERS, max_spare_txns=0, readahead=False, lock=lock,
        )  # fmt: skip

    try:
        return read(lock=True)
    except lmdb.ReadonlyError:  # no right to write beside it, where readers sign in
        return read(lock=False)


def _lay_out_locks(path: Path) -> None:
    """Give the file that readers sign in to its blocks now: a full disk would kill them later."""
    with suppress(AttributeError), Path(f"{path}-lock").open("r+b") as locks:
        os.posix_fallocate(locks.fileno(), 0, os.fstat(locks.fileno()).st_size)


def _check(path: Path, environment: lmdb.Environment) -> None:
    """Whether it is whole and ours: reading behind the end of a mapped file kills the process."""
    expected = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    found = path.stat().st_size
    if found < expected:
        raise ValueError(
            f"{str(path)!r} has {found} bytes; expected {expected}, so it was cut short, perhaps "
            f"while it was copied. Copy it again, or build it anew: {_rebuild(path)}"
        )
    with environment.begin() as transaction:
        version = transaction.get(FORMAT_KEY)
        entries = transaction.stat()["entries"]
    if version is None and entries:
        raise ValueError(f"{str(path)!r} holds no textures of ours. Name another folder.")
    if version is not None and version != str(FORMAT).encode():
        raise ValueError(
            f"{str(path)!r} is of version {version[:20].decode(errors='replace')}, and this "
            f"program reads version {FORMAT}. Use the program that wrote it, or build it anew: "
            f"{_rebuild(path)}"
        )


def _refusal(path: Path, values: Mapping[bytes, bytes], error: lmdb.Error) -> str:
    """Why it could not be written; LMDB calls a page that had no room an input/output error."""
    room, wanted = shutil.disk_usage(path.parent).free, sum(map(len, values.values()))
    full = isinstance(error, lmdb.DiskError) or room < wanted
    reason = f"the disk is full ({room} bytes free, {wanted} wanted)" if full else str(error)
    return (
        f"{str(path)!r} could not be written: {reason}. What it held before is safe; "
        f"{'make room' if full else 'mend that'} and run the same command again."
    )


def _rebuild(path: Path) -> str:
    return f"python -m lightning_arrcoc cache data.texture_cache={path.parent} rebuild=true"


def _is_there(value: memoryview | None) -> bool:
    return value is not None


# ---------------------------------------------------------------------------------------- forks


def _before_fork() -> None:
    LOCK.acquire()
    for path in list(_open):
        close(path)


def _in_child() -> None:
    _written.clear()
    LOCK.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=LOCK.release, after_in_child=_in_child)
