"""A profile of a few steps, of runs that end well and otherwise."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel

from lightning_arrcoc.profilers import StepsProfiler


class Acting(BoringModel):
    """Does what a test wants at a batch."""

    def __init__(self, act: Callable[[int], None] = lambda number: None) -> None:
        super().__init__()
        self.act = act

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.act(batch_idx)
        return super().training_step(batch, batch_idx)


def fit(profiler: StepsProfiler, model: BoringModel | None = None, **options: Any) -> pl.Trainer:
    settings: dict[str, Any] = {"max_steps": 8, "limit_val_batches": 0} | options
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, profiler=profiler, **settings,
    )  # fmt: skip
    trainer.fit(model or Acting())
    return trainer


def events(folder: Path, what: str = "time") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        gzip.decompress((folder / f"{what}_trace.json.gz").read_bytes())
    )["traceEvents"]
    return found


def steps(folder: Path, what: str = "time") -> list[str]:
    names = {event.get("name", "") for event in events(folder, what)}
    return sorted(name for name in names if name.startswith("ProfilerStep#"))


def optimizer_steps(folder: Path) -> int:
    names = [event.get("name", "") for event in events(folder) if event.get("ph") == "X"]
    return sum(name.startswith("Optimizer.step#") for name in names)


def test_time_leaves_a_table_and_a_trace_of_the_named_steps(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fit(StepsProfiler("time", 3, 5, tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"time_table.txt", "time_trace.json.gz"}
    assert steps(tmp_path) == ["ProfilerStep#3", "ProfilerStep#4"]
    assert optimizer_steps(tmp_path) == 2
    assert "aten::linear" in (tmp_path / "time_table.txt").read_text()
    names = {event.get("name", "") for event in events(tmp_path)}
    assert any("Linear: layer" in name for name in names)


def test_the_run_says_where_files_lie_and_how_to_open_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "lightning.pytorch.profilers.profiler"):
        fit(StepsProfiler("time", 3, 5, tmp_path))
    (words,) = [r.getMessage() for r in caplog.records if "Profile of" in r.getMessage()]
    assert "steps 3 to 4" in words
    assert f"{tmp_path / 'time_trace.json.gz'} (drop it on https://ui.perfetto.dev" in words


def test_memory_leaves_a_timeline_as_well(tmp_path: Path) -> None:
    fit(StepsProfiler("memory", 2, 4, tmp_path))
    names = {"memory_table.txt", "memory_trace.json.gz", "memory_timeline.png"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert (tmp_path / "memory_timeline.png").read_bytes().startswith(b"\x89PNG")
    assert "CPU Mem" in (tmp_path / "memory_table.txt").read_text()
    assert any(event.get("name") == "[memory]" for event in events(tmp_path, "memory"))


def test_a_validation_between_the_steps_loses_nothing(tmp_path: Path) -> None:
    """Under Lightning's own profiler torch throws the trace away."""
    fit(
        StepsProfiler("time", 3, 6, tmp_path), max_steps=10, limit_val_batches=3,
        val_check_interval=2, check_val_every_n_epoch=None,
    )  # fmt: skip
    assert optimizer_steps(tmp_path) == 3


def test_steps_are_the_optimizer_s(tmp_path: Path) -> None:
    fit(StepsProfiler("time", 1, 3, tmp_path), accumulate_grad_batches=3, max_steps=4)
    assert optimizer_steps(tmp_path) == 2
    names = [event.get("name", "") for event in events(tmp_path) if event.get("ph") == "X"]
    assert names.count("aten::linear") == 6


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_a_run_that_breaks_off_leaves_what_it_has(error: BaseException, tmp_path: Path) -> None:
    def act(number: int) -> None:
        if number == 4:
            raise error

    with pytest.raises((RuntimeError, SystemExit)):
        fit(StepsProfiler("time", 3, 40, tmp_path), Acting(act), max_steps=60)
    assert steps(tmp_path)[0] == "ProfilerStep#3"
    assert optimizer_steps(tmp_path) == 2  # the broken one began within the optimizer's
    assert (tmp_path / "time_table.txt").exists()
    assert not torch.autograd._profiler_enabled()


def test_a_run_that_ends_early_leaves_what_it_has(tmp_path: Path) -> None:
    fit(StepsProfiler("time", 3, 40, tmp_path), max_steps=6)
    assert optimizer_steps(tmp_path) == 3
    assert not torch.autograd._profiler_enabled()


def test_a_run_that_ends_before_the_first_step_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "lightning.pytorch.profilers.profiler"):
        fit(StepsProfiler("time", 30, 40, tmp_path), max_steps=2)
    assert "Nothing was profiled: the run ended after 2 steps, step 30" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_test_after_the_fit_is_not_profiled(tmp_path: Path) -> None:
    profiler = StepsProfiler("time", 3, 5, tmp_path)
    trainer = fit(profiler, limit_test_batches=2)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    trainer.test(Acting(), verbose=False)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert profiler.profiler is None


def test_nothing_is_left_on_the_model(tmp_path: Path) -> None:
    model = Acting()
    fit(StepsProfiler("time", 3, 5, tmp_path), model)
    assert not model.layer._forward_hooks
    assert not model.layer._forward_pre_hooks


def test_a_folder_that_cannot_be_written_costs_the_profile_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="The profile of time is lost"):
        trainer = fit(StepsProfiler("time", 3, 5, tmp_path / "file" / "folder"))
    assert trainer.global_step == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"what": "space"}, "expected one of time, memory"),
        ({"start": 0}, "expected 1 <= start < stop"),
        ({"start": 5, "stop": 5}, "expected 1 <= start < stop"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StepsProfiler(**options)


@pytest.mark.gpu
def test_on_a_gpu_kernels_and_the_allocator_are_recorded(tmp_path: Path) -> None:
    fit(StepsProfiler("memory", 2, 4, tmp_path), accelerator="gpu", devices=1)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"memory_snapshot.pickle", "memory_snapshot.html", "memory_timeline.png"} <= names
    assert any(event.get("cat") == "kernel" for event in events(tmp_path, "memory"))
