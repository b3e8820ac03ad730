"""The guard in real runs, over a device that says what the test wants."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_arrcoc.callbacks import AtomicCheckpoint, MemoryGuard
from lightning_arrcoc.events import Event
from lightning_arrcoc.memory.readings import GIB, MIB


class Using(BoringModel):
    """Whose memory follows a function of the step."""

    def __init__(self, memory: Any = None, use: Any = None) -> None:
        super().__init__()
        self.memory, self.use, self.heard = memory, use, []  # type: ignore[var-annotated]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.use is not None:
            self.use(self, self.trainer.global_step)
        return super().training_step(batch, batch_idx)


class Listening(pl.Callback):
    def __init__(self) -> None:
        self.heard: list[Event] = []

    def on_event(self, event: Event) -> None:
        self.heard.append(event)

    def names(self) -> list[str]:
        return [event.name for event in self.heard]


def fit(folder: Path, *callbacks: pl.Callback, model: Any = None, **options: Any) -> pl.Trainer:
    defaults: dict[str, Any] = {
        "max_steps": 4, "limit_val_batches": 0, "num_sanity_val_steps": 0, "accelerator": "cpu",
    }  # fmt: skip
    trainer = pl.Trainer(
        devices=1, callbacks=list(callbacks), logger=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        enable_checkpointing=any(isinstance(one, AtomicCheckpoint) for one in callbacks),
        **{**defaults, **options},
    )  # fmt: skip
    trainer.fit(model or BoringModel())
    return trainer


# --------------------------------------------------------------------------------------- leaks


def test_a_planted_leak_is_named_within_fifty_steps(tmp_path: Path, fake_memory: Any) -> None:
    class Leaking(BoringModel):
        def __init__(self) -> None:
            super().__init__()
            self.kept: list[torch.Tensor] = []

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.kept.append(torch.zeros(MIB // 4))
            fake_memory.hold(2 * GIB + len(self.kept) * MIB)
            return super().training_step(batch, batch_idx)

    listening = Listening()
    with pytest.warns(UserWarning, match=r"leak: 1\.00 MiB a step.* `kept` of Leaking"):
        fit(tmp_path, MemoryGuard(), listening, model=Leaking(), max_steps=50)
    (event,) = listening.heard
    assert event.name == "memory/leaked"
    assert event.step <= 50
    assert event.fields["bytes_per_step"] == pytest.approx(MIB)
    assert event.fields["steps_left"] == pytest.approx(14 * 1024 - 45, abs=1)
    assert "more of (262144,) float32 on cpu" in event.fields["grown"][0]


def test_a_thousand_clean_steps_give_no_alarm(tmp_path: Path, fake_memory: Any) -> None:
    noise = np.random.default_rng(0).normal(0, 20, 1000)

    def use(model: Any, step: int) -> None:
        fake_memory.hold(2 * GIB + int(noise[step] * MIB))

    listening = Listening()
    fit(tmp_path, MemoryGuard(), listening, model=Using(use=use), max_steps=1000)
    assert listening.heard == []


def test_a_run_on_a_cpu_gives_no_alarm_of_its_own(tmp_path: Path) -> None:
    listening = Listening()
    fit(tmp_path, MemoryGuard(warning=None, critical=None), listening, max_steps=300)
    assert listening.heard == []


# ---------------------------------------------------------------------------------- thresholds


def spike(memory: Any, at: int, gib: float) -> Any:
    def use(model: Any, step: int) -> None:
        memory.hold(GIB, peak=int((gib if step == at else 1) * GIB))

    return use


def test_a_spike_above_the_warning_is_told(tmp_path: Path, fake_memory: Any) -> None:
    listening = Listening()
    with pytest.warns(UserWarning, match=r"took 14\.00 of 16\.00 GiB.*smaller batch"):
        fit(tmp_path, MemoryGuard(), listening, model=Using(use=spike(fake_memory, 2, 14)))
    (event,) = listening.heard
    assert (event.name, event.step) == ("memory/warned", 3)
    assert event.fields == {"used_gib": 14.0, "capacity_gib": 16.0}


def test_what_others_hold_of_the_device_counts(tmp_path: Path, fake_memory: Any) -> None:
    fake_memory.others = 9 * GIB
    with pytest.warns(UserWarning, match=r"took 14\.00 of 16\.00 GiB"):
        fit(tmp_path, MemoryGuard(), model=Using(use=spike(fake_memory, 2, 5)))


def test_above_critical_an_atomic_checkpoint_is_saved_in_the_same_step(
    tmp_path: Path, fake_memory: Any
) -> None:
    saver, listening = AtomicCheckpoint(tmp_path / "saved", save_top_k=0), Listening()
    with pytest.warns(UserWarning, match="a checkpoint is asked for before it runs out"):
        fit(tmp_path, MemoryGuard(), saver, listening, model=Using(use=spike(fake_memory, 2, 15.5)))
    assert "memory/critical" in listening.names()
    (path,) = (tmp_path / "saved").iterdir()
    assert path.name == "emergency-step=3.ckpt"
    saved = torch.load(path, weights_only=True)
    assert saved["lightning_arrcoc"]["reason"] == "memory critical: 15.50 GiB"


def test_without_one_the_trainer_saves(tmp_path: Path, fake_memory: Any) -> None:
    with pytest.warns(UserWarning, match="a checkpoint is asked for"):
        fit(tmp_path, MemoryGuard(), model=Using(use=spike(fake_memory, 1, 15.5)))
    (path,) = (tmp_path / "checkpoints").iterdir()
    assert path.name == "emergency-step=2.ckpt"
    assert torch.load(path, weights_only=True)["global_step"] == 2


def test_a_device_of_unknown_size_has_no_thresholds_and_that_is_said(
    tmp_path: Path, fake_memory: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fake_memory.total = None
    with caplog.at_level(logging.INFO, "lightning.pytorch"):
        fit(tmp_path, MemoryGuard(), model=Using(use=spike(fake_memory, 1, 15.5)))
        fit(tmp_path, MemoryGuard())
    assert caplog.text.count("cannot see how much memory fake has") == 1


def test_more_gib_than_there_are_is_refused(tmp_path: Path, fake_memory: Any) -> None:
    with pytest.raises(MisconfigurationException, match=r"critical=20.*fake has 16\.0"):
        fit(tmp_path, MemoryGuard(10, 20))


# ------------------------------------------------------------------------------------- cleanup


@pytest.mark.parametrize(("every", "expected"), [(1, 4), (2, 2), (100, 1)])
def test_the_cache_is_handed_back_at_borders_and_not_too_often(
    tmp_path: Path, fake_memory: Any, every: int, expected: int
) -> None:
    def use(model: Any, step: int) -> None:
        fake_memory.hold(GIB, 3 * GIB)

    listening = Listening()
    fit(
        tmp_path, MemoryGuard(cleanup_every_n_steps=every), listening, model=Using(use=use),
        limit_val_batches=1, val_check_interval=1, limit_train_batches=4,
    )  # fmt: skip
    assert listening.names() == ["memory/cleaned"] * expected
    assert listening.heard[0].fields == {"freed_gib": 2.0}


def test_a_cache_that_is_not_worth_it_is_left(tmp_path: Path, fake_memory: Any) -> None:
    def use(model: Any, step: int) -> None:
        fake_memory.hold(GIB, GIB + GIB // 2)

    fit(
        tmp_path, MemoryGuard(cleanup_every_n_steps=1), model=Using(use=use),
        limit_val_batches=1, val_check_interval=1, limit_train_batches=4,
    )  # fmt: skip
    assert fake_memory.emptied == 0


# ---------------------------------------------------------------------------------- collecting


def collections() -> int:
    return sum(generation["collections"] for generation in gc.get_stats())


def test_cycles_are_collected_at_fixed_steps_alone(tmp_path: Path) -> None:
    counts: list[int] = []

    def use(model: Any, step: int) -> None:
        assert not gc.isenabled()
        counts.append(collections())
        cycles = [[] for _ in range(2000)]  # type: ignore[var-annotated]
        for cycle in cycles:
            cycle.append(cycle)

    guard = MemoryGuard(None, None, leak_window=None, gc_every_n_steps=3)
    fit(tmp_path, guard, model=Using(use=use), max_steps=8)
    assert np.diff(counts).tolist() == [0, 0, 1, 0, 0, 1, 0]
    assert gc.isenabled()


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_the_user_s_own_setting_comes_back(tmp_path: Path, enabled: bool, fails: bool) -> None:
    def use(model: Any, step: int) -> None:
        if fails and step == 2:
            raise RuntimeError("in the step")

    (gc.enable if enabled else gc.disable)()
    try:
        if fails:
            with pytest.raises(RuntimeError, match="in the step"):
                fit(tmp_path, MemoryGuard(), model=Using(use=use))
        else:
            fit(tmp_path, MemoryGuard(), model=Using(use=use))
        assert gc.isenabled() == enabled
    finally:
        gc.enable()


def test_none_leaves_python_as_it_is(tmp_path: Path) -> None:
    def use(model: Any, step: int) -> None:
        assert gc.isenabled()

    fit(tmp_path, MemoryGuard(gc_every_n_steps=None), model=Using(use=use))


# ------------------------------------------------------------------------------------- the rest


def test_a_run_is_what_it_would_have_been(tmp_path: Path) -> None:
    def weights(*callbacks: pl.Callback) -> torch.Tensor:
        pl.seed_everything(3, verbose=False)
        model = BoringModel()
        fit(tmp_path, *callbacks, model=model)
        return model.layer.weight

    assert torch.equal(weights(), weights(MemoryGuard()))


def test_it_serves_a_second_run(tmp_path: Path, fake_memory: Any) -> None:
    guard = MemoryGuard()
    for _ in range(2):
        with pytest.warns(UserWarning, match="smaller batch"):
            fit(tmp_path, guard, model=Using(use=spike(fake_memory, 2, 14)))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"warning": 0.9, "critical": 0.5}, "expected warning below critical"),
        ({"warning": 0.9, "critical": 30}, "two of a sort"),
        ({"cleanup_gib": -1}, "cleanup_gib=-1"),
        ({"cleanup_every_n_steps": 0}, "cleanup_every_n_steps=0"),
        ({"leak_window": 5}, "leak_window=5"),
        ({"gc_every_n_steps": 0}, "gc_every_n_steps=0"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        MemoryGuard(**arguments)


SCRIPT = """
import warnings
import lightning.pytorch as pl
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning_arrcoc.callbacks import MemoryGuard

class Act(pl.Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        guard = trainer.callbacks[0]
        if trainer.global_step == 2 and trainer.global_rank == 1:
            guard._saving.ask(trainer, "memory critical")

pl.Trainer(
    max_steps=6, accelerator="cpu", devices=2, strategy="ddp", logger=False, limit_val_batches=0,
    enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    callbacks=[MemoryGuard(), Act()],
).fit(BoringModel())
"""


def test_what_one_of_two_processes_asks_for_is_saved_by_both(
    tmp_path: Path, run_program: Callable[..., Any]
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = run_program(tmp_path / "script.py", ranks=2)
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = (tmp_path / "checkpoints").iterdir()
    assert path.name == "emergency-step=4.ckpt"  # agreed a step later


@pytest.mark.gpu
def test_a_leak_on_a_gpu_is_named(tmp_path: Path) -> None:
    kept: list[torch.Tensor] = []

    def use(model: Any, step: int) -> None:
        kept.append(torch.zeros(MIB // 4, device=model.device))

    with pytest.warns(UserWarning, match=r"leak: 1\.00 MiB a step"):
        fit(tmp_path, MemoryGuard(), model=Using(use=use), max_steps=50, accelerator="gpu")
