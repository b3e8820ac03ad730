"""Files written and read past the system's cache, where the system offers that.

What passes by it is read back from the disk without waiting for `fsync`, and leaves the memory of
the machine alone: a checkpoint of a gigabyte would push as much out of the cache.
"""

from __future__ import annotations

import os

DIRECT = getattr(os, "O_DIRECT", 0)  # Linux
DONTNEED = getattr(os, "POSIX_FADV_DONTNEED", None)


def reopened_unbuffered(descriptor: int) -> int | None:
    """Another descriptor of an open file, which takes whole pages only, from memory of whole pages.

    Returns:
        None where there is no such thing: another system, or a file system without it (tmpfs).
    """
    if not DIRECT:
        return None
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC | DIRECT)
    except OSError:
        return None


def write_at(descriptor: int, data: bytes | memoryview, start: int) -> None:
    """Write to the end; the system may take less at a time.

    Raises:
        OSError: it takes no more.
    """
    view = memoryview(data)
    while len(view):
        count = os.pwrite(descriptor, view, start)
        view, start = view[count:], start + count


def read_at(descriptor: int, view: memoryview, start: int) -> int:
    """Fill a piece of memory.

    Returns:
        Bytes that were read: fewer where the file ends.
    """
    done = 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done:]], start + done)
        if not count:
            break
        done += count
    return done


def start_writing_out(descriptor: int, start: int = 0, length: int = 0) -> None:
    """Have the system begin to write a range to disk, and forget what lies there already.

    Linux starts writing dirty pages when told that they are no longer needed. Begun early, most of
    a file is on disk when `fsync` asks for it; told after it, reading back reads the disk.
    """
    if DONTNEED is not None:
        os.posix_fadvise(descriptor, start, length, DONTNEED)
