"""Disks that are full, broken or locked: the checkpoint before stands, nothing else is left."""

from __future__ import annotations

import errno
import os
import resource
import runpy
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_arrcoc.plugins.atomic_checkpoint_io import AtomicCheckpointIO
from lightning_arrcoc.plugins.verifying import verify

SAVERS = runpy.run_path(str(Path(__file__).parent / "savers.py"))["SAVERS"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def state(step: int, numbers: int = 1000) -> dict[str, Any]:
    return {"global_step": step, "state_dict": {"weight": torch.full((numbers,), float(step))}}


def save(step: int, path: Path, numbers: int = 1000) -> None:
    AtomicCheckpointIO().save_checkpoint(state(step, numbers), path)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(1, tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt"


def stands(path: Path) -> bool:
    manifest = verify(path)
    return manifest is not None and manifest.step == 1 and names(path.parent) == [path.name]


@pytest.fixture(params=["1m"])
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A small file system."""
    size = request.param
    folder = tmp_path / "mounted"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip("needs root to mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_seen_before_anything_is_written(mounted: Path) -> None:
    with pytest.raises(OSError, match="No space left: a checkpoint of 3 MiB") as caught:
        save(2, mounted / "a.ckpt", 500_000)
    assert caught.value.errno == errno.ENOSPC
    assert list(mounted.glob(".*")) == []


def test_a_disk_that_fills_while_writing_loses_the_new_one_alone(
    mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "lightning_arrcoc.plugins.atomic_checkpoint_io"
    monkeypatch.setattr(f"{module}.refuse_full_disk", lambda needed, path: None)
    save(1, mounted / "a.ckpt")
    with pytest.raises(OSError, match="No space left"):
        save(2, mounted / "a.ckpt", 500_000)
    assert stands(mounted / "a.ckpt")


def test_a_file_may_not_grow_beyond_a_limit(saved: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save(2, saved, 500_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert stands(saved)


@pytest.mark.parametrize("call", ["fsync", "pwrite", "preadv"])
def test_an_error_of_the_device_leaves_the_one_before(
    call: str, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def broken(*_: Any) -> None:
        calls.append(call)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, call, broken)
    with pytest.raises(OSError, match="Input/output error"):
        save(2, saved)
    monkeypatch.undo()
    assert stands(saved)
    assert call != "fsync" or len(calls) == 1, "a second fsync can succeed although data is lost"


def test_a_failing_rename_leaves_the_one_before(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Path, target: Path) -> Path:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(OSError, match="Input/output error"):
        save(2, saved)
    assert stands(saved)


def test_what_the_disk_did_not_keep_is_found_out_before_the_name_changes(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def forgetful(descriptor: int) -> None:
        os.pwrite(descriptor, b"\0\0\0", 700)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", forgetful)
    with pytest.raises((OSError, ValueError), match=r"damaged|differs"):
        save(2, saved)
    monkeypatch.undo()
    assert stands(saved)


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda d, data, at: real(d, memoryview(data)[:1000], at))
    save(1, tmp_path / "a.ckpt", 20_000)
    monkeypatch.undo()
    assert stands(tmp_path / "a.ckpt")


@pytest.mark.parametrize("mounted", ["9m"], indirect=True)
@pytest.mark.parametrize("options", ["ro", "immutable"])
def test_a_folder_that_cannot_be_written_is_said(options: str, mounted: Path) -> None:
    if options == "ro":
        subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
        with pytest.raises(OSError, match="Read-only"):
            save(1, mounted / "a.ckpt")
        return
    folder = mounted.parent / "immutable"
    folder.mkdir()
    save(1, folder / "a.ckpt")
    if subprocess.run(["chattr", "+i", str(folder)], check=False, capture_output=True).returncode:
        pytest.skip("this file system knows no immutable folders")
    try:
        with pytest.raises(PermissionError, match="not permitted"):
            save(2, folder / "a.ckpt")
        assert stands(folder / "a.ckpt")
    finally:
        subprocess.run(["chattr", "-i", str(folder)], check=True)


def test_two_writers_of_one_name_leave_one_whole_file(tmp_path: Path) -> None:
    def write(step: int) -> None:
        for _ in range(10):
            save(step, tmp_path / "a.ckpt")

    threads = [threading.Thread(target=write, args=(step,)) for step in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    manifest = verify(tmp_path / "a.ckpt")
    assert manifest is not None
    assert manifest.step in (1, 2)
    assert names(tmp_path) == ["a.ckpt"]


def calls_of(saver: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a saver asks of the system, and where; repetitions left out."""
    done: list[str] = []
    real = {name: getattr(os, name) for name in ("fsync", "pwrite", "preadv")}
    replace = Path.replace

    def watch(name: str) -> Any:
        def watched(descriptor: int, *rest: Any) -> Any:
            regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            there = Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(folder)
            done.append(f"{name}{'' if regular else ' folder'}{'' if there else ' elsewhere'}")
            return real[name](descriptor, *rest)

        return watched

    def watched_replace(self: Path, target: Path) -> Path:
        done.append("replace")
        return replace(self, target)

    with monkeypatch.context() as patched:
        for name in real:
            patched.setattr(os, name, watch(name))
        patched.setattr(Path, "replace", watched_replace)
        SAVERS[saver](1, folder / "a.ckpt")
    return [one for place, one in enumerate(done) if not place or done[place - 1] != one]


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
SAFE = ["pwrite", "fsync", "preadv", "replace", "fsync folder"]


@needs_proc
def test_the_order_is_write_sync_verify_rename_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power cut would show, where no file system can be mounted."""
    assert calls_of("ours", tmp_path, monkeypatch) == SAFE


@needs_proc
@pytest.mark.parametrize("mutant", ["without_fsync", "by_tmpdir"])
def test_mutants_have_another_order(
    mutant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative controls: the test above can fail."""
    (tmp_path / "saved").mkdir()
    assert calls_of(mutant, tmp_path / "saved", monkeypatch) != SAFE
