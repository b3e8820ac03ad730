"""Many read, one writes, and nothing is open twice or across a fork."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from lightning_arrcoc.data import lmdb_files
from lightning_arrcoc.data.texture_cache import TextureCache, TextureWriter
from lightning_arrcoc.data.texture_entry import pack


def key(number: int) -> bytes:
    return f"{number:064x}".encode()


def textures(number: int, cells: int = 4) -> torch.Tensor:
    return torch.full((3, cells, cells), number, dtype=torch.float16)


def entries(*numbers: int) -> dict[bytes, bytes]:
    return {key(number): pack(key(number), textures(number)) for number in numbers}


def fill(folder: Path, *numbers: int, shard: int = 0) -> TextureCache:
    with TextureWriter(folder, shard) as writer:
        writer.put(entries(*numbers))
    return TextureCache(folder)


def held(cache: TextureCache, *numbers: int) -> list[int]:
    """Those of the numbers that the cache has, as they were written."""
    found = []
    for number in numbers:
        value = cache.get(key(number))
        if value is not None:
            assert torch.equal(value, textures(number))
            found.append(number)
    return found


# ------------------------------------------------------------------------------ reading, writing


def test_what_was_written_is_read_and_the_rest_is_not_there(tmp_path: Path) -> None:
    cache = fill(tmp_path / "made" / "here", 1, 2, 3)
    assert held(cache, 1, 2, 3, 4) == [1, 2, 3]
    assert len(cache) == 3
    assert cache.bytes_on_disk() == (cache.folder / "shard-00000.mdb").stat().st_size


def test_a_batch_is_there_as_soon_as_it_is_put(tmp_path: Path) -> None:
    cache = TextureCache(tmp_path)
    with TextureWriter(tmp_path) as writer:
        writer.put(entries(1))
        assert held(cache, 1, 2) == [1]
        writer.put({})
        writer.put(entries(2))
        assert held(cache, 1, 2) == [1, 2]
    assert held(cache, 1, 2) == [1, 2]


def test_what_is_put_again_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    cache = fill(tmp_path, 1)
    with TextureWriter(tmp_path) as writer:
        writer.put({key(1): pack(key(1), textures(9))})
    found = cache.get(key(1))
    assert found is not None
    assert torch.equal(found, textures(9))
    assert len(cache) == 1


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    for shard in range(3):
        cache = fill(tmp_path, 10 * shard, 10 * shard + 1, shard=shard)
    assert held(cache, *range(30)) == [0, 1, 10, 11, 20, 21]
    assert len(cache) == 6
    assert [shard.name for shard in cache.shards()] == [f"shard-0000{i}.mdb" for i in range(3)]


def test_an_entry_that_is_damaged_in_one_shard_is_taken_from_another(tmp_path: Path) -> None:
    with TextureWriter(tmp_path) as writer:
        writer.put({key(1): b"damaged"})
    assert TextureCache(tmp_path).get(key(1)) is None
    assert held(fill(tmp_path, 1, shard=1), 1) == [1]


def test_rebuilding_removes_every_shard(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    cache = fill(tmp_path, 2, shard=1)
    assert held(cache, 1, 2) == [1, 2]
    with TextureWriter(tmp_path, rebuild=True) as writer:
        writer.put(entries(3))
    assert held(TextureCache(tmp_path), 1, 2, 3) == [3]
    assert len(TextureCache(tmp_path)) == 1


def test_the_map_doubles_when_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_files, "START_MAP", 2**16)
    with TextureWriter(tmp_path) as writer:
        for number in range(40):
            writer.put({key(number): pack(key(number), textures(number, cells=64))})
        size = lmdb_files.opened(writer.path).info()["map_size"]
    assert size == 2**21  # 40 entries of 28 KiB
    cache = TextureCache(tmp_path)
    assert all(cache.get(key(number)) is not None for number in range(40))


def test_a_batch_larger_than_the_map_fits_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lmdb_files, "START_MAP", 2**16)
    with TextureWriter(tmp_path) as writer:
        writer.put({key(i): pack(key(i), textures(i, cells=64)) for i in range(100)})
    assert len(TextureCache(tmp_path)) == 100


def test_a_map_that_grows_while_a_reader_opens_it_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TextureWriter(tmp_path) as writer:
        writer.put({key(1): pack(key(1), textures(1))})
    check, opened = lmdb_files._check, []

    def grown_meanwhile(path: Path, environment: lmdb.Environment) -> None:
        opened.append(path)
        if len(opened) == 1:
            raise lmdb.MapResizedError
        check(path, environment)

    monkeypatch.setattr(lmdb_files, "_check", grown_meanwhile)
    assert len(TextureCache(tmp_path)) == 1
    lmdb_files.close(writer.path)
    opened.clear()
    assert TextureCache(tmp_path).get(key(1)) is not None


# ------------------------------------------------------------------------------------- processes


class Held(Dataset[bool]):
    """Whether a cache holds each number."""

    def __init__(self, cache: TextureCache) -> None:
        self.cache = cache

    def __len__(self) -> int:
        return 40

    def __getitem__(self, number: int) -> bool:
        return self.cache.get(key(number)) is not None


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_worker_processes_read_what_this_one_has_open(tmp_path: Path, start: str) -> None:
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {start} here")
    cache = fill(tmp_path, *range(0, 40, 2))
    assert held(cache, 0) == [0]
    if start == "spawn":  # a test file cannot be imported by name elsewhere
        assert held(pickle.loads(pickle.dumps(cache)), 0, 1, 2) == [0, 2]
        return
    loader = DataLoader(Held(cache), batch_size=None, num_workers=2, multiprocessing_context=start)
    for _ in range(2):
        assert [bool(found) for found in loader] == [number % 2 == 0 for number in range(40)]
        assert held(cache, 0, 1) == [0], "this process reads on"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_nothing_is_open_in_a_child(tmp_path: Path) -> None:
    """LMDB must not be used, nor closed, by a process that did not open it."""
    assert held(fill(tmp_path, 1), 1) == [1]
    assert lmdb_files._open
    with TextureWriter(tmp_path / "other") as writer:
        child = os.fork()
        if not child:
            os._exit(len(lmdb_files._open) + len(lmdb_files._written))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with writer.path.with_suffix(".writer").open("w") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the child left it to its parent
        writer.put(entries(5))
    assert held(TextureCache(tmp_path), 1) == [1]
    assert held(TextureCache(tmp_path / "other"), 5) == [5]


def test_the_same_folder_by_another_name_is_the_same_cache(tmp_path: Path) -> None:
    fill(tmp_path / "folder", 1)
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    one, other = TextureCache(tmp_path / "folder"), TextureCache(tmp_path / "link")
    assert held(one, 1) == held(other, 1) == [1]


def test_readers_that_died_leave_their_places(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    code = (
        "import os, lmdb\n"
        f"env = lmdb.open({str(tmp_path / 'shard-00000.mdb')!r}, subdir=False, readonly=True,\n"
        f"    max_readers={lmdb_files.READERS})\n"
        f"held = [env.begin() for _ in range({lmdb_files.READERS})]\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert held(TextureCache(tmp_path), 1) == [1]


def test_importing_the_data_module_does_not_import_lmdb() -> None:
    code = "import sys, lightning_arrcoc.data.datamodule; print('lmdb' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ------------------------------------------------------------------------------------- bad input


def test_a_folder_without_a_cache_is_told_how_to_get_one(tmp_path: Path) -> None:
    cache = TextureCache(tmp_path / "nothing")
    assert cache.get(key(1)) is None
    assert (len(cache), cache.bytes_on_disk()) == (0, 0)
    with pytest.raises(FileNotFoundError, match=r"lightning_arrcoc cache data.texture_cache=/"):
        cache.check()


def test_a_file_that_is_no_lmdb_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shard-00000.mdb").write_bytes(b"something else" * 1000)
    with pytest.raises(ValueError, match=r"is damaged, or no LMDB file .* rebuild=true"):
        TextureCache(tmp_path).get(key(1))
    with pytest.raises(ValueError, match="is damaged, or no LMDB file"), TextureWriter(tmp_path):
        pass
    assert held(fill(tmp_path / "other", 1), 1) == [1]


def test_an_lmdb_file_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "shard-00000.mdb"
    with lmdb.open(str(path), subdir=False) as other, other.begin(write=True) as transaction:
        transaction.put(b"theirs", b"theirs")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="holds no textures of ours"), TextureWriter(tmp_path):
        pass
    assert path.read_bytes() == before


def test_a_shard_that_was_cut_short_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """Reading it would end the process: the file is mapped into memory."""
    fill(tmp_path, *range(300))
    path = tmp_path / "shard-00000.mdb"
    os.truncate(path, path.stat().st_size - 4096)
    with pytest.raises(ValueError, match=r"cut short, perhaps while it was copied.* rebuild=true"):
        TextureCache(tmp_path).get(key(1))
    with TextureWriter(tmp_path, rebuild=True) as writer:
        writer.put(entries(1))
    assert held(TextureCache(tmp_path), 1) == [1]


@pytest.mark.parametrize("size", [0, 4096, 8191])
def test_a_shard_whose_writer_died_at_its_birth_counts_as_none(tmp_path: Path, size: int) -> None:
    (tmp_path / "shard-00000.mdb").write_bytes(bytes(size))
    cache = TextureCache(tmp_path)
    assert cache.get(key(1)) is None
    assert held(fill(tmp_path, 1), 1) == [1]


@pytest.mark.parametrize("version", [b"2", b"17", b"0"])
def test_a_cache_of_another_version_is_refused_with_the_command_that_rebuilds_it(
    tmp_path: Path, version: bytes
) -> None:
    with TextureWriter(tmp_path) as writer:
        writer.put(entries(1) | {lmdb_files.FORMAT_KEY: version})
    command = f"python -m lightning_arrcoc cache data.texture_cache={tmp_path} rebuild=true"
    for refused in (
        lambda: TextureCache(tmp_path).get(key(1)),
        lambda: TextureCache(tmp_path).check(),
        lambda: TextureWriter(tmp_path).__enter__(),
    ):
        with pytest.raises(ValueError, match=f"is of version {version.decode()}, ") as error:
            refused()
        assert command in str(error.value)
    with TextureWriter(tmp_path, rebuild=True) as writer:
        writer.put(entries(2))
    assert held(TextureCache(tmp_path), 1, 2) == [2]
