"""Whatever happens to a cache, what it gives is what was measured, or nothing."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from lightning_arrcoc.data import lmdb_files
from lightning_arrcoc.data.texture_building import build_textures
from lightning_arrcoc.data.texture_cache import TextureCache, TextureWriter

ROOT = Path(__file__).parents[2]
WRITER = Path(__file__).with_name("cache_writer.py")
NOBODY = 65534
PATIENCE_S = 600  # a busy machine is no failure
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="module")
def numbered() -> ModuleType:
    """What the writer process writes: key, textures, batch."""
    spec = importlib.util.spec_from_file_location("cache_writer", WRITER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Process:
    """A writer process that does what it is told."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(WRITER), "serve"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT,
        )  # fmt: skip

    def do(self, word: str, folder: Path, *numbers: int) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(word, folder, *numbers, file=self.process.stdin, flush=True)
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def processes() -> Iterator[list[Process]]:
    alive = [Process()]
    yield alive
    alive[0].kill()


@pytest.fixture
def writer(processes: list[Process]) -> Process:
    """The same one for all tests, until one kills it."""
    if processes[0].process.poll() is not None:
        processes[0] = Process()
    return processes[0]


def verified(folder: Path, numbered: ModuleType, batches: int) -> bool:
    """Whether so many batches are there, and every entry is as it was written."""
    return numbered.written(folder) == batches and numbered.broken(folder, batches) == 0


def write(folder: Path, numbered: ModuleType, batches: int) -> Path:
    with TextureWriter(folder) as ours:
        for number in range(batches):
            ours.put(numbered.batch(number))
    return ours.path


# --------------------------------------------------------------------------------------- SIGKILL


@pytest.mark.parametrize("kills", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_a_killed_writer_loses_at_most_the_batch_it_was_writing(kills: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(WRITER), "kill", str(tmp_path), str(kills), "0"],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE_S, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    print(found)
    assert found["kills"] == kills
    assert (found["lost"], found["damaged"], found["unopened"]) == (0, 0, 0)
    assert found["over"] <= kills, "what was written and not yet acknowledged is one batch"
    assert found["batches"] > 0


# --------------------------------------------------------------------------------------- damage


def test_a_flipped_bit_is_noticed_and_that_entry_alone_is_measured_anew(
    tmp_path: Path, numbered: ModuleType
) -> None:
    path = write(tmp_path, numbered, 10)
    chance = random.Random(0)
    flipped = chance.sample(range(40), 12)
    content = bytearray(path.read_bytes())
    for number in flipped:
        packed = numbered.pack(numbered.key(number), numbered.textures(number))
        assert content.count(packed) == 1
        place = content.index(packed) + chance.randrange(len(packed))
        content[place] ^= 1 << chance.randrange(8)
    path.write_bytes(content)
    cache = TextureCache(tmp_path)
    gone = [number for number in range(40) if cache.get(numbered.key(number)) is None]
    assert gone == sorted(flipped)
    assert numbered.broken(tmp_path, 10) == 12
    with TextureWriter(tmp_path) as again:
        keys = [numbered.key(number) for number in gone]
        again.put({k: numbered.pack(k, numbered.textures(int(k, 16))) for k in keys})
    assert verified(tmp_path, numbered, 10)


@pytest.mark.parametrize("bit", [0, 5, 12])
def test_a_flipped_bit_in_the_length_of_an_entry_is_noticed_too(
    tmp_path: Path, writer: Process, numbered: ModuleType, bit: int
) -> None:
    path = write(tmp_path, numbered, 3)
    content = bytearray(path.read_bytes())
    length = len(numbered.pack(numbered.key(5), numbered.textures(5)))
    # A node of LMDB: length of the value, flags, length of the key, the key; old pages have it too.
    nodes = [found.start() - 8 for found in re.finditer(numbered.key(5), bytes(content))]
    nodes = [node for node in nodes if content[node : node + 4] == length.to_bytes(4, "little")]
    assert nodes
    for node in nodes:
        content[node : node + 4] = (length ^ 1 << bit).to_bytes(4, "little")
    path.write_bytes(content)
    answers = [writer.do("get", tmp_path, number) for number in range(12)]
    assert answers == ["True"] * 5 + ["False"] + ["True"] * 6


# ------------------------------------------------------------------------------------- full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no right to mount a disk here")
    yield folder
    for path in list(lmdb_files._open):
        lmdb_files.close(path)
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_and_the_cache_stays_whole_and_goes_on_where_there_is_room(
    small_disk: Path, numbered: ModuleType
) -> None:
    with TextureWriter(small_disk) as ours:
        done = 0

        def put_many() -> None:
            nonlocal done
            while done < 1000:
                ours.put(numbered.batch(done))
                done += 1

        with pytest.raises(OSError, match=r"the disk is full .* What it held before is safe"):
            put_many()
    assert 10 < done < 1000
    assert verified(small_disk, numbered, done), "it can be read on a full disk"
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    with TextureWriter(small_disk) as ours:
        for number in range(done, done + 10):
            ours.put(numbered.batch(number))
    assert verified(small_disk, numbered, done + 10)


def test_a_build_on_a_full_disk_ends_with_the_error_and_what_it_wrote_is_whole(
    small_disk: Path, numbered: ModuleType
) -> None:
    from PIL import Image

    from lightning_arrcoc.data.sample import Sample

    class Large:
        """Textures of 128 KiB."""

        fingerprint = "large"

        def grid_of(self, image: Image.Image) -> tuple[int, int]:
            return 256, 256

        def measure(self, image: Image.Image) -> torch.Tensor:
            return torch.zeros(1, 256, 256, dtype=torch.float16)

    samples = [Sample((Image.new("RGB", (8, 8), (i, 0, 0)),), ()) for i in range(40)]
    with pytest.raises(OSError, match="the disk is full"):
        build_textures(small_disk, [samples], Large(), batch=4)  # type: ignore[arg-type]
    entries = len(TextureCache(small_disk))
    assert 0 < entries < 40
    assert entries % 8 == 0


def test_a_file_that_may_not_grow_is_told_and_the_cache_stays_whole(
    tmp_path: Path, writer: Process, numbered: ModuleType
) -> None:
    batches, _, error = writer.do("fill", tmp_path, 1_000_000).partition(" ")
    assert "What it held before is safe" in error
    assert int(batches) > 10
    assert verified(tmp_path, numbered, int(batches))
    with TextureWriter(tmp_path) as ours:
        ours.put(numbered.batch(int(batches)))
    assert verified(tmp_path, numbered, int(batches) + 1)


# ------------------------------------------------------------------------- several at the same time


def test_a_second_writer_says_so_and_waits_until_the_first_is_done(
    tmp_path: Path, writer: Process, numbered: ModuleType
) -> None:
    writer.do("open", tmp_path)
    writer.do("put", tmp_path, 0, 3)
    told: list[str] = []

    def tell(words: str) -> None:
        told.append(words)
        writer.do("put", tmp_path, 3, 5)
        writer.do("close", tmp_path)

    with TextureWriter(tmp_path, tell=tell) as ours:
        assert told == [f"Another process writes {str(ours.path)!r}; waiting until it is done."]
        assert numbered.written(tmp_path) == 5
        ours.put(numbered.batch(5))
    assert verified(tmp_path, numbered, 6)


def test_a_writer_that_was_killed_is_not_waited_for(
    tmp_path: Path, writer: Process, numbered: ModuleType
) -> None:
    writer.do("open", tmp_path)
    writer.do("put", tmp_path, 0, 3)
    writer.kill()
    told: list[str] = []
    with TextureWriter(tmp_path, tell=told.append) as ours:
        ours.put(numbered.batch(3))
    assert told == []
    assert verified(tmp_path, numbered, 4)


def test_a_reader_follows_a_writer_that_makes_the_map_larger(
    tmp_path: Path, writer: Process, numbered: ModuleType
) -> None:
    writer.do("open", tmp_path)
    writer.do("put", tmp_path, 0, 1)
    cache = TextureCache(tmp_path)
    for upto in range(1, 40, 3):  # 4 MB in a map that began with 256 KiB
        assert cache.get(numbered.key((upto - 1) * numbered.BATCH)) is not None
        assert cache.get(numbered.key(upto * numbered.BATCH)) is None
        writer.do("put", tmp_path, upto, upto + 3)
    assert verified(tmp_path, numbered, 40)
    writer.do("close", tmp_path)


def test_a_writer_that_makes_the_map_larger_is_read_by_the_workers_of_a_loader_too(
    tmp_path: Path, writer: Process, numbered: ModuleType
) -> None:
    with TextureWriter(tmp_path) as ours:
        ours.put(numbered.batch(0))
        assert writer.do("get", tmp_path, 0) == "True"
        for number in range(1, 40):
            ours.put(numbered.batch(number))
        assert writer.do("get", tmp_path, 39 * numbered.BATCH) == "True"
        assert writer.do("get", tmp_path, 40 * numbered.BATCH) == "False"


# -------------------------------------------------------------------------------- read-only folders


@pytest.mark.parametrize("locks", ["with", "without"])
def test_a_folder_that_may_not_be_written_is_read(
    tmp_path: Path, numbered: ModuleType, locks: str
) -> None:
    folder = tmp_path / "read_only"
    path = write(folder, numbered, 3)
    if locks == "without":
        Path(f"{path}-lock").unlink()
    folder.chmod(0o555)
    code = (
        "import os, lmdb; from lightning_arrcoc.data.texture_cache import TextureCache\n"
        f"lmdb.open({str(tmp_path / 'any')!r}).close()\n"  # imports what root alone may read
        f"cache, folder = TextureCache({str(folder)!r}), {str(folder)!r}\n"
        "os.chdir(folder)\n"  # the way there is open to root alone
        "cache.folder = type(cache.folder)('.')\n"
        f"if os.geteuid() == 0: os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "found = [cache.get(f'{number:064x}'.encode()) is not None for number in range(13)]\n"
        "print(os.access('.', os.W_OK), found == [True] * 12 + [False])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True,
        timeout=PATIENCE_S,
    )  # fmt: skip
    folder.chmod(0o755)
    assert done.stdout.split() == ["False", "True"], done.stderr


def test_a_disk_that_may_not_be_written_is_read_and_not_written(
    small_disk: Path, numbered: ModuleType
) -> None:
    write(small_disk, numbered, 3)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert verified(small_disk, numbered, 3)
    with pytest.raises(OSError, match="Read-only file system"), TextureWriter(small_disk):
        pass


# ------------------------------------------------------------------------------------ the command


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """The command in a process group of its own, over more canvases than it gets to."""
    command = [sys.executable, "-m", "lightning_arrcoc", "cache", "data.val.length=20000", *words]
    return subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for_entries(cache: TextureCache, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not (cache.shards() and len(cache)):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.1)


def processes_of(group: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(entry.parent.name))
    return found


@pytest.mark.parametrize("workers", ["0", "2"])
def test_ctrl_c_leaves_what_was_measured_says_how_much_and_ends_with_130(
    tmp_path: Path, workers: str
) -> None:
    process = start(tmp_path, f"workers={workers}")
    cache = TextureCache(tmp_path / "outputs" / "textures")
    wait_for_entries(cache, process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, err
    assert "Traceback" not in out + err
    assert f"Stopped: {len(cache)} entries are safe in {cache.folder}; the same command" in out
    assert processes_of(process.pid) == []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_the_command_can_be_killed_again_and_again_and_goes_on(tmp_path: Path) -> None:
    cache, before = TextureCache(tmp_path / "outputs" / "textures"), 0
    for _ in range(5):
        process = start(tmp_path, "workers=2")
        until = time.monotonic() + PATIENCE_S
        while not cache.shards() or len(cache) == before:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
        process.kill()
        process.communicate(timeout=PATIENCE_S)
        until = time.monotonic() + PATIENCE_S
        while processes_of(process.pid):  # workers see within seconds that they are alone
            assert time.monotonic() < until
            time.sleep(0.1)
        assert len(cache) > before
        before = len(cache)
