"""Bytes on their way to disk, hashed as they pass, and hashed again as they lie there."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue

from lightning_arrcoc.plugins.unbuffered import (
    read_at,
    reopened_unbuffered,
    start_writing_out,
    write_at,
)

CHUNK = 8 << 20  # Chosen by us: large enough that hashing outweighs handing over, small in memory
WRITERS = 4  # Chosen by us: while some wait for the disk, others hash
HELD = 64  # bytes; a zip's last record is 22


class HashedStream:
    """What `torch.save` takes for a file: hashed, written and read back in other threads.

    The digest is the sha256 of the sha256 digests of consecutive chunks of 8 MiB, so that several
    cores can share the work, also when a file is verified. Whole chunks pass the system's cache by
    where it allows that, and each is read back from the disk as soon as it is there; the others
    are by `read_back`. At most 40 MiB are copied. `torch.save` calls `write` from C++, where an
    exception has no way out: the first is kept and raised by `finish`.
    """

    def __init__(self, descriptor: int) -> None:
        self.size = 0  # of the chunks that were handed over
        self._descriptor = descriptor
        self._unbuffered = reopened_unbuffered(descriptor)
        self._pool = ThreadPoolExecutor(WRITERS, thread_name_prefix="checkpoint-hash")
        self._digests: list[Future[bytes]] = []
        self._unread: list[tuple[int, int]] = []  # number and bytes of chunks to be read back
        self._spare: SimpleQueue[mmap.mmap] = SimpleQueue()
        for _ in range(WRITERS):
            self._spare.put(mmap.mmap(-1, CHUNK))  # whole pages, taken when they are first filled
        self._buffer, self._filled = mmap.mmap(-1, CHUNK), 0
        self._held = b""  # the last small write: a zip's last record is still to be changed
        self._error: BaseException | None = None

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data).cast("B")
        if self._error is None:
            try:
                self._take(memoryview(self._held))
                self._held = bytes(view) if len(view) <= HELD else b""
                if not self._held:
                    self._take(view)
            except BaseException as error:
                self._error = error
        return len(view)

    def flush(self) -> None:
        """There is nothing to flush before `finish`."""

    def finish(self, ending: bytes = b"") -> str:
        """Write the last piece in the form of `ending`, if one is given.

        Returns:
            The digest of all that was written.

        Raises:
            BaseException: the first that a write ran into.
        """
        if self._error is None:
            self._take(memoryview(ending or self._held))
            self._hand_over()
            return _root(future.result() for future in self._digests)
        raise self._error

    def read_back(self) -> None:
        """Read what was not read back yet, after `fsync`.

        Raises:
            OSError: other bytes are on the disk than were written.
        """
        start_writing_out(self._descriptor)  # what is read comes from the disk
        buffer = self._spare.get()
        for number, length in self._unread:
            view = memoryview(buffer)[:length]
            _compare(self._descriptor, view, number, self._digests[number].result())

    @property
    def held(self) -> bytes:
        """The last write, if it was a small one: not yet hashed."""
        return self._held

    @property
    def taken(self) -> int:
        """Bytes that came before it."""
        return self.size + self._filled

    def close(self) -> None:
        """Let the threads go; harmless when repeated."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._unbuffered is not None:
            os.close(self._unbuffered)
            self._unbuffered = None

    def _take(self, view: memoryview) -> None:
        while len(view):
            part, view = view[: CHUNK - self._filled], view[CHUNK - self._filled :]
            self._buffer[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            if self._filled == CHUNK:
                self._hand_over()

    def _hand_over(self) -> None:
        """Leave what has gathered to a thread, and go on in another buffer."""
        if not self._filled:
            return
        work = partial(self._store, self._buffer, len(self._digests), self._filled)
        self._digests.append(_submit(self._pool, work))
        self.size, self._filled = self.size + self._filled, 0
        self._buffer = self._spare.get()

    def _store(self, buffer: mmap.mmap, number: int, length: int) -> bytes:
        try:
            view = memoryview(buffer)[:length]
            digest = _sha256(view)
            unbuffered = self._unbuffered if length == CHUNK else None
            if unbuffered is not None and _is_taken(unbuffered, view, number):
                _compare(unbuffered, view, number, digest)
            else:
                write_at(self._descriptor, view, number * CHUNK)
                start_writing_out(self._descriptor, number * CHUNK, length)
                self._unread.append((number, length))
            return digest
        except BaseException as error:
            self._error = error  # nothing more is written
            raise
        finally:
            self._spare.put(buffer)


def _is_taken(unbuffered: int, view: memoryview, number: int) -> bool:
    """Write a chunk past the cache; False by a file system that promises it and cannot."""
    try:
        write_at(unbuffered, view, number * CHUNK)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def _compare(descriptor: int, view: memoryview, number: int, digest: bytes) -> None:
    """Read a chunk into `view` and refuse another one than was written."""
    count = read_at(descriptor, view, number * CHUNK)
    if count != len(view) or _sha256(view) != digest:
        raise OSError(errno.EIO, "What was read back differs from what was written")


def digest_on_disk(descriptor: int, size: int) -> str:
    """The digest of the first `size` bytes of a file, as `HashedStream` counts it.

    Raises:
        OSError: they cannot be read.
    """
    workers = min(WRITERS, os.cpu_count() or 1)
    buffers: SimpleQueue[bytearray] = SimpleQueue()
    for _ in range(workers):
        buffers.put(bytearray(CHUNK))

    def digest(start: int) -> bytes:
        buffer = buffers.get()
        try:
            view = memoryview(buffer)[: min(CHUNK, size - start)]
            return _sha256(view[: read_at(descriptor, view, start)])
        finally:
            buffers.put(buffer)

    with ThreadPoolExecutor(workers, thread_name_prefix="checkpoint-verify") as pool:
        digests = [_submit(pool, partial(digest, start)) for start in range(0, size, CHUNK)]
        return _root(future.result() for future in digests)


def _submit(pool: ThreadPoolExecutor, work: Callable[[], bytes]) -> Future[bytes]:
    """In the pool; here and now when the interpreter is ending, which takes no new work."""
    try:
        return pool.submit(work)
    except RuntimeError:
        done: Future[bytes] = Future()
        done.set_result(work())
        return done


def _sha256(data: memoryview) -> bytes:
    return hashlib.sha256(data).digest()


def _root(digests: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(digests)).hexdigest()
