"""Files that are whole or absent, also after a crash or a power cut."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows: nothing can be told about temporary files of others there
    fcntl = None  # type: ignore[assignment]

TEMPORARY = ".arrcoc-tmp"  # how the names of our temporary files end


def write_atomically(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Replace a file in one step, on disk before its name appears.

    Args:
        path: where it goes; missing folders are made.
        write: fills the open file.

    Raises:
        OSError: it cannot be written; what stood there before still does.
    """
    with replacing(path) as descriptor, os.fdopen(os.dup(descriptor), "wb") as file:
        write(file)
        file.flush()
        os.fsync(descriptor)


@contextmanager
def replacing(path: str | Path) -> Iterator[int]:
    """A new file beside `path` that takes its name when the block ends, or vanishes.

    The block fills it and brings it to disk (`os.fsync`, once: a second try on the same descriptor
    can succeed although the pages are lost). It is locked while it is open, by which
    `sweep_temporaries` knows that its writer lives.

    Args:
        path: where it goes; missing folders are made.

    Yields:
        Its descriptor, for reading and writing.

    Raises:
        OSError: it cannot be written; what stood there before still does.
    """
    target = Path(path)
    make_folders(target.parent)
    descriptor, temporary = _new_temporary(target)
    try:
        try:
            yield descriptor
            temporary.chmod(_usual_mode())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    finally:
        os.close(descriptor)
    sync_folder(target.parent)


@contextmanager
def replacing_folder(path: str | Path, *, replace: bool = False) -> Iterator[Path]:
    """A new folder beside `path` that takes its name when the block ends, or vanishes.

    Every file in it is on disk before. Where one is replaced, there is a moment between two renames
    in which a power cut leaves both folders beside each other, and neither under the name. Whoever
    has mapped or opened files of the old one keeps them (Windows refuses the rename instead).

    Args:
        path: where it goes; missing folders above it are made.
        replace: an existing folder gives way.

    Yields:
        The folder to fill.

    Raises:
        FileExistsError: something has the name, and `replace` is false.
        OSError: it cannot be written; what stood there before still does.
    """
    target = Path(path)
    if os.path.lexists(target) and not replace:
        raise FileExistsError(
            f"{str(target)!r} exists already. Name another folder, or say overwrite=true."
        )
    make_folders(target.parent)
    temporary = Path(
        tempfile.mkdtemp(prefix=f".{target.name[:40]}.", suffix=TEMPORARY, dir=target.parent)
    )
    new, old = temporary / "new", temporary / "old"
    try:
        new.mkdir()
        yield new
        _sync_tree(new)
        if os.path.lexists(target):
            target.rename(old)
        new.rename(target)
        sync_folder(target.parent)
    finally:
        if os.path.lexists(old) and not os.path.lexists(target):  # also where Ctrl-C came between
            old.rename(target)
        shutil.rmtree(temporary, ignore_errors=True)


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            sync_folder(path)
        else:
            path.chmod(_usual_mode())  # safetensors makes files for their owner alone
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(folder)


def _usual_mode() -> int:
    """As open() would have made a file."""
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def make_folders(folder: Path) -> None:
    """Make a folder and those above it, and have their names on disk."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        sync_folder(new.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to disk, where the file system can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
            raise
    finally:
        os.close(descriptor)


def sweep_temporaries(folder: Path) -> list[Path]:
    """Remove temporary files of ours whose writers are gone, and name them."""
    swept = []
    for path in sorted(folder.glob(f".*{TEMPORARY}")):
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | O_NONBLOCK)
            try:
                if _lock(descriptor, wait=False):
                    path.unlink()
                    swept.append(path)
            finally:
                os.close(descriptor)
    return swept


O_NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # a pipe of that name must not keep us waiting


def _new_temporary(target: Path) -> tuple[int, Path]:
    """A locked new file; one that was swept before it could be locked is made again."""
    while True:
        descriptor, name = tempfile.mkstemp(
            prefix=f".{target.name[:40]}.", suffix=TEMPORARY, dir=target.parent
        )
        _lock(descriptor, wait=True)
        if os.fstat(descriptor).st_nlink:
            return descriptor, Path(name)
        os.close(descriptor)


def _lock(descriptor: int, *, wait: bool) -> bool:
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # held by its writer, or a file system without locks: leave it alone
        return False
    return True
