import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lightning_arrcoc.plugins import hashed_stream
from lightning_arrcoc.plugins.hashed_stream import HashedStream, digest_on_disk
from lightning_arrcoc.plugins.unbuffered import reopened_unbuffered

CHUNK = 1 << 16


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashed_stream, "CHUNK", CHUNK)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


@pytest.fixture(params=["past the cache", "through the cache"])
def way(request: pytest.FixtureRequest, file: int, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "through the cache":
        monkeypatch.setattr(hashed_stream, "reopened_unbuffered", lambda descriptor: None)
        return request.param
    unbuffered = reopened_unbuffered(file)
    if unbuffered is None:
        pytest.skip("this file system lets nothing pass its cache by")
    os.close(unbuffered)
    return request.param


def store(file: int, *parts: bytes) -> str:
    stream = HashedStream(file)
    try:
        for part in parts:
            stream.write(part)
        digest = stream.finish()
        os.fsync(file)
        stream.read_back()
    finally:
        stream.close()
    return digest


def open_descriptors() -> list[str]:
    folder = Path("/proc/self/fd")
    return sorted(one.name for one in folder.iterdir()) if folder.is_dir() else []


def by_hand(data: bytes) -> str:
    chunks = [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]
    return hashlib.sha256(b"".join(hashlib.sha256(one).digest() for one in chunks)).hexdigest()


@pytest.mark.parametrize("length", [1, CHUNK - 1, CHUNK, CHUNK + 1, 9 * CHUNK + 17])
def test_what_was_written_is_there_and_hashed_by_chunks(length: int, way: str, file: int) -> None:
    data = os.urandom(length)
    digest = store(file, data[:13], data[13 : CHUNK // 2], data[CHUNK // 2 :])
    assert os.pread(file, length + 1, 0) == data
    assert digest == by_hand(data) == digest_on_disk(file, length)


@pytest.mark.parametrize("chunk", [0, 4, 5])
def test_what_the_disk_changed_is_found_in_any_chunk(
    chunk: int, way: str, file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite

    def changed(descriptor: int, data: Any, start: int) -> int:
        count = real(descriptor, data, start)
        if start == chunk * CHUNK:
            real(file, b"\0\1\2", start + 99)
        return count

    monkeypatch.setattr(os, "pwrite", changed)
    with pytest.raises(OSError, match="differs") as caught:
        store(file, os.urandom(5 * CHUNK + 200))
    assert caught.value.errno == errno.EIO


def test_a_file_system_that_takes_nothing_past_its_cache_still_gets_all(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refused = os.pwrite, []

    def picky(descriptor: int, data: Any, start: int) -> int:
        if descriptor != file:
            refused.append(start)
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(descriptor, data, start)

    opened = os.dup(file)
    monkeypatch.setattr(hashed_stream, "reopened_unbuffered", lambda descriptor: opened)
    monkeypatch.setattr(os, "pwrite", picky)
    data = os.urandom(3 * CHUNK)
    assert store(file, data) == by_hand(data)
    assert sorted(refused) == [0, CHUNK, 2 * CHUNK]


def test_after_an_error_nothing_more_is_written(
    way: str, file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def full(descriptor: int, data: Any, start: int) -> int:
        calls.append(start)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        store(file, *[bytes(CHUNK)] * 500)
    assert len(calls) < 100


def test_a_descriptor_is_not_left_open(way: str, file: int) -> None:
    before = open_descriptors()
    store(file, os.urandom(3 * CHUNK))
    assert open_descriptors() == before
