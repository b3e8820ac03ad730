"""The steps that were asked for are recorded and written, also when a run fails in them."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel

from lightning_arrcoc.callbacks import MemorySnapshot
from lightning_arrcoc.memory import history


class Allocator:
    """Stands where CUDA's would: an event a step, as torch's snapshots have them."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.events: list[dict[str, Any]] = []

    def record(self, enabled: str | None, **_: Any) -> None:
        self.calls.append(enabled)

    def snapshot(self) -> dict[str, Any]:
        return {"segments": [], "device_traces": [list(self.events)], "allocator_settings": {}}


@pytest.fixture
def allocator(monkeypatch: pytest.MonkeyPatch) -> Allocator:
    allocator = Allocator()
    monkeypatch.setattr(history, "can_record", lambda: True)
    monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", allocator.record)
    monkeypatch.setattr(torch.cuda.memory, "_snapshot", allocator.snapshot)
    return allocator


def fit(folder: Path, *callbacks: pl.Callback, model: Any = None, accelerator: str = "cpu") -> None:
    pl.Trainer(
        accelerator=accelerator, devices=1, callbacks=list(callbacks), logger=False, max_steps=6,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        enable_checkpointing=False, default_root_dir=folder,
    ).fit(model or BoringModel())  # fmt: skip


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_steps_are_recorded_and_written(tmp_path: Path, allocator: Allocator) -> None:
    fit(tmp_path, MemorySnapshot(2, 4))
    assert allocator.calls == ["all", None]
    assert names(tmp_path / "memory") == ["memory-steps=2-4.html", "memory-steps=2-4.pickle"]
    written = pickle.loads((tmp_path / "memory" / "memory-steps=2-4.pickle").read_bytes())
    assert written == allocator.snapshot()
    page = (tmp_path / "memory" / "memory-steps=2-4.html").read_text()
    assert "Active Memory Timeline" in page


def test_steps_beyond_the_end_are_cut_off(tmp_path: Path, allocator: Allocator) -> None:
    fit(tmp_path, MemorySnapshot(4, 400, dirpath=tmp_path / "here"))
    assert "memory-steps=4-6.pickle" in names(tmp_path / "here")


def test_a_run_that_fails_has_it_written_and_recording_ends(
    tmp_path: Path, allocator: Allocator
) -> None:
    class Failing(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 3:
                raise RuntimeError("in the step")
            return super().training_step(batch, batch_idx)

    with pytest.raises(RuntimeError, match="in the step"):
        fit(tmp_path, MemorySnapshot(2, 5), model=Failing())
    assert "memory-steps=2-3.pickle" in names(tmp_path / "memory")
    assert allocator.calls == ["all", None]


def test_two_that_record_do_not_end_each_other(tmp_path: Path, allocator: Allocator) -> None:
    fit(tmp_path, MemorySnapshot(1, 3, dirpath=tmp_path), MemorySnapshot(2, 5, dirpath=tmp_path))
    assert allocator.calls == ["all", None]
    assert len(names(tmp_path)) == 4


def test_a_full_disk_is_a_warning(
    tmp_path: Path, allocator: Allocator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(history, "write_atomically", full)
    with pytest.warns(UserWarning, match="No space left"):
        fit(tmp_path, MemorySnapshot(2, 4))
    assert allocator.calls == ["all", None]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_nothing_is_written_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "lightning.pytorch"):
        fit(tmp_path, MemorySnapshot())
    assert "MemorySnapshot records nothing" in caplog.text
    assert names(tmp_path) == []


@pytest.mark.parametrize("steps", [(3, 3), (5, 2), (-1, 2)])
def test_steps_that_are_no_range_are_refused(steps: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="start="):
        MemorySnapshot(*steps)


def test_no_entries_are_refused() -> None:
    with pytest.raises(ValueError, match="entries=0"):
        MemorySnapshot(entries=0)


@pytest.mark.gpu
def test_on_a_gpu_the_record_holds_allocations(tmp_path: Path) -> None:
    fit(tmp_path, MemorySnapshot(1, 3), accelerator="gpu")
    written = pickle.loads((tmp_path / "memory" / "memory-steps=1-3.pickle").read_bytes())
    assert any(event["action"] == "alloc" for event in written["device_traces"][0])
    assert (tmp_path / "memory" / "memory-steps=1-3.html").stat().st_size > 1000
