"""Figures of memory in real few-step runs, over a device that says what the test wants."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger, Logger

from lightning_arrcoc.callbacks import MemoryMonitor, unseen
from lightning_arrcoc.memory.readings import GIB

FEW = {"allocated_peak_gib", "reserved_peak_gib", "device_gib", "rss_gib", "retries", "ooms"}
DETAIL = FEW | {
    "fragmentation_gib", "process_gib", "train_peak_gib", "validation_peak_gib",
    "checkpoint_peak_gib", "sanity_check_peak_gib",
}  # fmt: skip


class Kept(CSVLogger):
    """Remembers what it was given."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.lines: list[tuple[int | None, dict[str, float]]] = []

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        found = {k.removeprefix("memory/"): v for k, v in metrics.items() if "memory/" in k}
        if found:
            self.lines.append((step, found))


class Using(BoringModel):
    """Holds so and so much GiB in each phase."""

    def __init__(self, memory: Any = None) -> None:
        super().__init__()
        self.memory = memory

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.memory:
            self.memory.hold(2 * GIB, 5 * GIB, peak=(3 + batch_idx) * GIB)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        if self.memory:
            self.memory.hold(2 * GIB, peak=(20 if self.trainer.sanity_checking else 30) * GIB)
        return super().validation_step(batch, batch_idx)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.memory:
            self.memory.hold(2 * GIB, peak=40 * GIB)


def fit(
    folder: Path, *callbacks: pl.Callback, model: Any = None, logger: Logger | None = None,
    **options: Any,
) -> pl.Trainer:  # fmt: skip
    defaults: dict[str, Any] = {"max_steps": 4, "limit_val_batches": 0, "num_sanity_val_steps": 0}
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, callbacks=list(callbacks), logger=logger or False,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=2,
        enable_checkpointing=any(isinstance(one, ModelCheckpoint) for one in callbacks),
        default_root_dir=folder, **{**defaults, **options},
    )  # fmt: skip
    trainer.fit(model or BoringModel())
    return trainer


def test_each_window_has_its_own_peak(tmp_path: Path, fake_memory: Any) -> None:
    logger = Kept(tmp_path)
    fit(tmp_path, MemoryMonitor(), model=Using(fake_memory), logger=logger)
    assert [step for step, _ in logger.lines] == [1, 3]
    assert [line["allocated_peak_gib"] for _, line in logger.lines] == [4.0, 6.0]
    assert {key for _, line in logger.lines for key in line} == FEW


def test_detail_tells_phases_apart(tmp_path: Path, fake_memory: Any) -> None:
    logger, monitor = Kept(tmp_path), MemoryMonitor(detail=True)
    fit(
        tmp_path, monitor, ModelCheckpoint(tmp_path, every_n_train_steps=1), logger=logger,
        model=Using(fake_memory), limit_val_batches=1, num_sanity_val_steps=1,
        val_check_interval=1, limit_train_batches=4,
    )  # fmt: skip
    line = logger.lines[-1][1]
    assert set(line) == DETAIL
    peaks = {key: line[f"{key}_peak_gib"] for key in ("train", "validation", "checkpoint")}
    assert peaks == {"train": 6.0, "validation": 30.0, "checkpoint": 40.0}
    assert line["sanity_check_peak_gib"] == 20.0
    assert line["fragmentation_gib"] == 0.0
    assert line["process_gib"] == 5.0


def test_fragmentation_is_what_is_reserved_and_not_allocated(
    tmp_path: Path, fake_memory: Any
) -> None:
    class Splintered(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            fake_memory.hold(GIB, 4 * GIB, peak=3 * GIB)
            fake_memory.others, fake_memory.retries, fake_memory.ooms = 2 * GIB, batch_idx, 1
            return super().training_step(batch, batch_idx)

    logger = Kept(tmp_path)
    fit(tmp_path, MemoryMonitor(detail=True), model=Splintered(), logger=logger)
    (_, first), (_, second) = logger.lines
    assert first["fragmentation_gib"] == 1.0
    assert first["device_gib"] == 6.0
    assert [first["retries"], second["retries"]] == [1, 2]  # of the window, not of the run
    assert [first["ooms"], second["ooms"]] == [1, 0]


def test_a_label_gets_a_row_of_the_table(
    tmp_path: Path, fake_memory: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monitor = MemoryMonitor()

    class Tracking(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            with monitor.track("encode"):
                fake_memory.hold((batch_idx + 2) << 20, peak=(batch_idx + 7) << 20)
            return super().training_step(batch, batch_idx)

    fit(tmp_path, monitor, model=Tracking())
    encode = monitor.stretches["encode"]
    assert (encode.before, encode.peak, encode.after, encode.times) == (0, 10 << 20, 5 << 20, 4)
    row = next(line for line in capsys.readouterr().out.splitlines() if "encode" in line)
    assert row.split("│")[1:-1] == [
        " encode ", "          0.0 ", "       10.0 ", "         5.0 ", "     4 "
    ]  # fmt: skip


def test_a_label_is_counted_also_when_its_block_fails(fake_memory: Any) -> None:
    monitor = MemoryMonitor()
    with pytest.raises(RuntimeError), monitor.track("decode"):
        raise RuntimeError
    assert monitor.stretches["decode"].times == 1


def test_the_table_can_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, MemoryMonitor(summary=False))
    assert "Memory on" not in capsys.readouterr().out


def test_on_a_cpu_the_process_is_logged_and_what_is_missing_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unseen, "_SAID", set())
    logger = Kept(tmp_path)
    with caplog.at_level(logging.INFO, "lightning.pytorch"):
        fit(tmp_path, MemoryMonitor(detail=True), logger=logger)
        fit(tmp_path, MemoryMonitor())
    assert caplog.text.count("Memory callbacks cannot see tensors apart") == 1
    assert set(logger.lines[-1][1]) == {"rss_gib", "train_peak_gib"}
    assert 0.05 < logger.lines[-1][1]["rss_gib"] < 100


def test_accumulated_batches_are_one_step(tmp_path: Path, fake_memory: Any) -> None:
    logger = Kept(tmp_path)
    fit(tmp_path, MemoryMonitor(), model=Using(fake_memory), logger=logger,
        accumulate_grad_batches=3)  # fmt: skip
    assert [step for step, _ in logger.lines] == [1, 3]
    assert [line["allocated_peak_gib"] for _, line in logger.lines] == [8.0, 14.0]


def test_a_run_is_what_it_would_have_been(tmp_path: Path) -> None:
    def weights(*callbacks: pl.Callback) -> torch.Tensor:
        pl.seed_everything(3, verbose=False)
        model = BoringModel()
        fit(tmp_path, *callbacks, model=model)
        return model.layer.weight

    assert torch.equal(weights(), weights(MemoryMonitor(detail=True)))


def test_it_serves_a_second_run_and_one_that_fails(tmp_path: Path, fake_memory: Any) -> None:
    class Failing(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise RuntimeError("in the step")

    monitor = MemoryMonitor()
    fit(tmp_path, monitor, model=Using(fake_memory))
    with pytest.raises(RuntimeError, match="in the step"):
        fit(tmp_path, monitor, model=Failing())
    assert monitor._peaks is None
    fit(tmp_path, monitor, model=Using(fake_memory))
    assert monitor.stretches["train"].peak == 6 * GIB


SCRIPT = """
import json, sys
import lightning.pytorch as pl
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning_arrcoc.callbacks import MemoryMonitor
from lightning_arrcoc.memory import readings

class Uneven(BoringModel):
    def on_fit_start(self):
        from lightning_arrcoc.callbacks import memory_monitor
        memory_monitor.resident_bytes = lambda: (self.trainer.global_rank + 1) << 30

trainer = pl.Trainer(
    max_steps=4, accelerator="cpu", devices=2, strategy="ddp", logger=False, limit_val_batches=0,
    enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    log_every_n_steps=2, callbacks=[MemoryMonitor(detail=True)],
)
trainer.fit(Uneven())
if trainer.is_global_zero:
    print(json.dumps({k: float(v) for k, v in trainer.callback_metrics.items()}))
"""


def test_of_two_processes_the_larger_is_logged_and_named(
    tmp_path: Path, run_program: Callable[..., Any]
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = run_program(tmp_path / "script.py", ranks=2)
    assert done.returncode == 0, done.stderr[-2000:]
    assert '"memory/rss_gib": 2.0' in done.stdout
    assert '"memory/rss_gib_rank": 1.0' in done.stdout
    assert '"memory/peak_rank": 1.0' in done.stdout


@pytest.mark.gpu
def test_a_gpu_s_peak_is_torch_s_own(tmp_path: Path) -> None:
    seen: list[float] = []

    class Watching(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            large = torch.empty(1 << 26, device=self.device)
            del large
            seen.append(torch.cuda.max_memory_allocated() / GIB)
            return super().training_step(batch, batch_idx)

    logger = Kept(tmp_path)
    trainer = pl.Trainer(
        max_steps=2, accelerator="gpu", devices=1, callbacks=[MemoryMonitor(detail=True)],
        logger=logger, enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        enable_checkpointing=False, log_every_n_steps=2, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Watching())
    assert logger.lines[-1][1]["allocated_peak_gib"] == pytest.approx(max(seen), rel=1e-3)
