"""Folders count when their marker is there, and are what it says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.strategies import SingleDeviceStrategy

from lightning_arrcoc.callbacks import AtomicCheckpoint
from lightning_arrcoc.callbacks.checkpointing.last_verified import find_last_verified
from lightning_arrcoc.plugins import sharded
from lightning_arrcoc.plugins.manifest import DamagedCheckpointError


def folder(place: Path, name: str = "a.ckpt") -> Path:
    (place / name / "inner").mkdir(parents=True)
    (place / name / "shard0").write_bytes(b"0" * 1000)
    (place / name / "inner" / "shard1").write_bytes(b"1" * 1000)
    return place / name


def test_a_committed_folder_verifies_until_a_file_changes(tmp_path: Path) -> None:
    path = folder(tmp_path)
    assert sharded.verify_folder(path) is None
    sharded.commit(path, 7)
    marker = sharded.verify_folder(path)
    assert marker is not None
    assert marker["step"] == 7
    (path / "inner" / "shard1").write_bytes(b"1" * 999 + b"2")
    with pytest.raises(DamagedCheckpointError, match="inner/shard1 does not match"):
        sharded.verify_folder(path)


@pytest.mark.parametrize("change", ["missing", "added", "marker", "link"])
def test_other_changes_are_found_too(change: str, tmp_path: Path) -> None:
    path = folder(tmp_path)
    sharded.commit(path, 7)
    if change == "missing":
        (path / "shard0").unlink()
    elif change == "added":
        (path / "shard2").write_bytes(b"")
    elif change == "link":
        (path / "shard0").unlink()
        (path / "shard0").symlink_to(path / "inner" / "shard1")
    else:
        text = (path / sharded.MARKER).read_text()
        (path / sharded.MARKER).write_text(text.replace('"step": 7', '"step": 8'))
    with pytest.raises(DamagedCheckpointError):
        sharded.verify_folder(path)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "inner/../../x"])
def test_a_marker_names_only_what_lies_inside(name: str, tmp_path: Path) -> None:
    path = folder(tmp_path)
    text = json.dumps({"schema": 1, "step": 1, "files": {name: [1, "0"]}})
    digest = hashlib.sha256(text.encode()).hexdigest()
    (path / sharded.MARKER).write_text(f"{text}\n{digest}")
    with pytest.raises(DamagedCheckpointError, match="outside of it"):
        sharded.read_marker(path)


def test_unfinished_folders_of_ours_are_swept_and_never_resumed(tmp_path: Path) -> None:
    done, stock, broken = (folder(tmp_path, f"{name}.ckpt") for name in ("done", "stock", "broken"))
    sharded.commit(done, 1)
    sharded.begin(broken)
    assert find_last_verified(str(tmp_path)) == str(done)
    assert sharded.sweep_uncommitted(tmp_path) == [broken]
    assert sorted(path.name for path in tmp_path.iterdir()) == [done.name, stock.name]


class Folders(SingleDeviceStrategy):
    """Saves as FSDP does with sharded states: a folder, past any CheckpointIO."""

    _state_dict_type = "sharded"

    def save_checkpoint(self, checkpoint: Any, filepath: Any, storage_options: Any = None) -> None:
        Path(filepath).mkdir(parents=True, exist_ok=True)
        torch.save(checkpoint, Path(filepath) / "shard")

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        return torch.load(Path(checkpoint_path) / "shard", weights_only=True)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
def test_a_run_commits_its_folders_and_resumes_from_one(tmp_path: Path) -> None:
    def fit(steps: int, resume: str | None = None) -> pl.Trainer:
        saver = AtomicCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
        trainer = pl.Trainer(
            max_steps=steps, strategy=Folders(torch.device("cpu")), callbacks=[saver],
            logger=False, enable_progress_bar=False, enable_model_summary=False,
            limit_val_batches=0,
        )  # fmt: skip
        trainer.fit(BoringModel(), ckpt_path=resume)
        return trainer

    fit(4)
    assert sharded.verify_folder(tmp_path / "step=4.ckpt")
    (tmp_path / "step=4.ckpt" / "shard").write_bytes(b"torn")
    with pytest.warns(UserWarning, match=r"step=4\.ckpt is damaged"):
        assert fit(6, "last_verified").global_step == 6
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step=2.ckpt", "step=4.ckpt", "step=4.ckpt.corrupt", "step=6.ckpt"]
