"""Bytes on their way to disk, hashed as they pass, and hashed again as they lie there."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

CHUNK = 8 << 20  # Chosen by us: large enough that hashing outweighs handing over, small in memory
BUFFERS = 3  # being filled, written and hashed
HELD = 64  # bytes; a zip's last record is 22
DONTNEED = getattr(os, "POSIX_FADV_DONTNEED", None)


class HashedStream:
    """What `torch.save` takes for a file: writes to a descriptor and hashes in other threads.

    The digest is the sha256 of the sha256 digests of consecutive chunks of 8 MiB, so that several
    cores can share the work, also when a file is verified. At most 24 MiB are copied; large
    tensors go to disk from where they are. `torch.save` calls `write` from C++, where an exception
    has no way out: the first is kept and raised by `finish`.
    """

    def __init__(self, descriptor: int) -> None:
        self.size = 0
        self._descriptor = descriptor
        self._pool = ThreadPoolExecutor(_workers(), thread_name_prefix="checkpoint-hash")
        self._digests: list[Future[bytes]] = []
        self._busy: deque[tuple[Future[bytes], bytearray]] = deque()
        self._buffer, self._filled = bytearray(CHUNK), 0
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
        """Write the last piece in the form of `ending`, if one is given, and close.

        Returns:
            The digest of all that was written.

        Raises:
            BaseException: the first that a write ran into.
        """
        try:
            if self._error is None:
                self._take(memoryview(ending or self._held))
                self._hand_over()
                return _root(future.result() for future in self._digests)
        finally:
            self.close()
        raise self._error

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

    def _take(self, view: memoryview) -> None:
        passing = []
        while len(view):
            if not self._filled and len(view) >= CHUNK:
                chunk, view = view[:CHUNK], view[CHUNK:]
                passing.append(self._put(chunk))
                continue
            part, view = view[: CHUNK - self._filled], view[CHUNK - self._filled :]
            self._buffer[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            if self._filled == CHUNK:
                self._hand_over()
        for digest in passing:  # the caller's memory may be gone when this returns
            digest.result()

    def _hand_over(self) -> None:
        """Write what has gathered, and go on in another buffer."""
        if not self._filled:
            return
        digest = self._put(memoryview(self._buffer)[: self._filled])
        self._busy.append((digest, self._buffer))
        self._filled = 0
        if len(self._busy) < BUFFERS:
            self._buffer = bytearray(CHUNK)
        else:
            oldest, self._buffer = self._busy.popleft()
            oldest.result()

    def _put(self, chunk: memoryview) -> Future[bytes]:
        digest = _submit(self._pool, _sha256, chunk)
        self._digests.append(digest)
        write_all(self._descriptor, chunk)
        start_writing_out(self._descriptor, self.size, len(chunk))
        self.size += len(chunk)
        return digest


def digest_on_disk(descriptor: int, size: int) -> str:
    """The digest of the first `size` bytes of a file, as `HashedStream` counts it.

    Raises:
        OSError: they cannot be read.
    """
    buffers: SimpleQueue[bytearray] = SimpleQueue()
    workers = _workers()
    for _ in range(workers):
        buffers.put(bytearray(CHUNK))

    def digest(start: int) -> bytes:
        buffer = buffers.get()
        try:
            view = memoryview(buffer)[: min(CHUNK, size - start)]
            return _sha256(view[: _read_into(descriptor, view, start)])
        finally:
            buffers.put(buffer)

    with ThreadPoolExecutor(workers, thread_name_prefix="checkpoint-verify") as pool:
        digests = [_submit(pool, digest, start) for start in range(0, size, CHUNK)]
        return _root(future.result() for future in digests)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write to the end; the system may take less at a time."""
    view = memoryview(data)
    while len(view):
        view = view[os.write(descriptor, view) :]


def start_writing_out(descriptor: int, start: int = 0, length: int = 0) -> None:
    """Have the system begin to write a range to disk, and forget what lies there already.

    Linux starts writing dirty pages when told that they are no longer needed. Begun early, most of
    a file is on disk when `fsync` asks for it; told after it, reading back reads the disk.
    """
    if DONTNEED is not None:
        os.posix_fadvise(descriptor, start, length, DONTNEED)


def _submit(pool: ThreadPoolExecutor, work: Callable[[Any], bytes], what: Any) -> Future[bytes]:
    """In the pool; here and now when the interpreter is ending, which takes no new work."""
    try:
        return pool.submit(work, what)
    except RuntimeError:
        done: Future[bytes] = Future()
        done.set_result(work(what))
        return done


def _read_into(descriptor: int, view: memoryview, start: int) -> int:
    done = 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done:]], start + done)
        if not count:
            break
        done += count
    return done


def _sha256(data: memoryview) -> bytes:
    return hashlib.sha256(data).digest()


def _root(digests: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _workers() -> int:
    return min(4, os.cpu_count() or 1)  # Chosen by us: four hash faster than most disks write
