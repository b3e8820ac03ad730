"""Saving in the background, and to stores behind fsspec."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from lightning_arrcoc.plugins import AtomicCheckpointIO, atomic_checkpoint_io
from lightning_arrcoc.plugins.manifest import DamagedCheckpointError
from lightning_arrcoc.plugins.verifying import verify


def state(step: int) -> dict[str, Any]:
    return {"global_step": step, "state_dict": {"weight": torch.full((1000,), float(step))}}


def full_disk(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_in_the_background_what_is_saved_is_what_was_then(tmp_path: Path) -> None:
    io, checkpoint = AtomicCheckpointIO(async_save=True), state(1)
    io.save_checkpoint(checkpoint, tmp_path / "a.ckpt")
    checkpoint["state_dict"]["weight"].zero_()
    assert io.load_checkpoint(tmp_path / "a.ckpt")["state_dict"]["weight"].sum() == 1000
    io.teardown()


def test_in_the_background_an_error_is_raised_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    io = AtomicCheckpointIO(async_save=True)
    monkeypatch.setattr(atomic_checkpoint_io, "write_checkpoint", full_disk)
    io.save_checkpoint(state(1), tmp_path / "a.ckpt")
    with pytest.raises(OSError, match="No space left"):
        io.teardown()
    io.teardown()


@pytest.mark.parametrize("async_save", [False, True])
def test_nothing_is_removed_after_a_save_that_failed(
    async_save: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    io = AtomicCheckpointIO(async_save)
    for name in ("a.ckpt", "b.ckpt"):
        io.save_checkpoint(state(1), tmp_path / name)
    io.wait()
    with monkeypatch.context() as patched, io.holding_errors():
        patched.setattr(atomic_checkpoint_io, "write_checkpoint", full_disk)
        io.save_checkpoint(state(2), tmp_path / "c.ckpt")
        io.remove_checkpoint(tmp_path / "a.ckpt")
        io.wait()
    assert (tmp_path / "a.ckpt").exists()
    assert io.take_error() is not None
    io.save_checkpoint(state(2), tmp_path / "c.ckpt")
    io.remove_checkpoint(tmp_path / "a.ckpt")
    io.remove_checkpoint(tmp_path / "c.ckpt")  # the last verified one
    io.teardown()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.ckpt", "c.ckpt"]


def test_a_process_does_not_end_before_its_last_save(tmp_path: Path) -> None:
    code = (
        "import sys, torch; from lightning_arrcoc.plugins import AtomicCheckpointIO; "
        "io = AtomicCheckpointIO(async_save=True); "
        "io.save_checkpoint({'global_step': 9, 'w': torch.ones(3_000_000)}, sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.ckpt")], check=True)
    manifest = verify(tmp_path / "a.ckpt")
    assert manifest is not None
    assert manifest.step == 9


# --------------------------------------------------------------------------------------- stores


@pytest.fixture
def store() -> Iterator[Any]:
    found = fsspec.filesystem("memory")
    yield found
    found.store.clear()


def test_a_store_gets_the_file_and_then_its_marker(store: Any) -> None:
    io = AtomicCheckpointIO()
    io.save_checkpoint(state(4), "memory://run/a.ckpt")
    assert io.load_checkpoint("memory://run/a.ckpt")["global_step"] == 4
    marker = json.loads(store.cat_file("/run/a.ckpt.manifest.json"))
    assert marker["step"] == 4
    io.save_checkpoint(state(5), "memory://run/b.ckpt")
    io.remove_checkpoint("memory://run/a.ckpt")
    assert store.ls("/run", detail=False) == ["/run/b.ckpt", "/run/b.ckpt.manifest.json"]


def test_an_old_marker_neither_vouches_for_a_new_file_nor_spoils_it(store: Any) -> None:
    io = AtomicCheckpointIO()
    io.save_checkpoint(state(4), "memory://run/a.ckpt")
    old = store.cat_file("/run/a.ckpt.manifest.json")
    io.save_checkpoint(state(5), "memory://run/a.ckpt")
    store.pipe_file("/run/a.ckpt.manifest.json", old)  # as if it had died between the two
    assert io.load_checkpoint("memory://run/a.ckpt")["global_step"] == 5
    store.pipe_file("/run/a.ckpt", store.cat_file("/run/a.ckpt")[:-9])
    with pytest.raises(DamagedCheckpointError):
        io.load_checkpoint("memory://run/a.ckpt")


def test_a_store_is_read_from_only_what_vouches_for_itself(store: Any, tmp_path: Path) -> None:
    torch.save(state(1), tmp_path / "stock")
    store.put_file(str(tmp_path / "stock"), "/stock.ckpt")
    with pytest.raises(DamagedCheckpointError, match="has no manifest"):
        AtomicCheckpointIO().load_checkpoint("memory://stock.ckpt")
