"""What is saved, kept and resumed, in real few-step runs."""

from __future__ import annotations

import errno
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
from lightning.pytorch.plugins import AsyncCheckpointIO
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

from lightning_arrcoc.architecture import ArchitectureError
from lightning_arrcoc.callbacks import AtomicCheckpoint
from lightning_arrcoc.events import Event
from lightning_arrcoc.plugins import AtomicCheckpointIO, atomic_checkpoint_io
from lightning_arrcoc.plugins.checkpoint_file import write_checkpoint
from lightning_arrcoc.plugins.verifying import read_manifest, verify

pytestmark = pytest.mark.filterwarnings(
    "ignore:You're resuming from a checkpoint that ended before the epoch ended",
    "ignore:The dirpath has changed from",  # it resumes from another folder, as it was told
)


class Logged(BoringModel):
    """Draws random numbers as dropout does, and logs a loss that falls."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        found = super().training_step(batch, batch_idx)
        self.log("loss", -float(self.trainer.global_step))
        self.drawn.append(float(torch.rand(1)) + random.random() + float(np.random.rand()))
        return found


class AtStep(pl.Callback):
    """Does something in the midst of a step."""

    def __init__(self, step: int, act: Any) -> None:
        self.step, self.act = step, act

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            self.act(trainer)


def fit(
    folder: Path,
    *callbacks: pl.Callback,
    steps: int = 6,
    model: Any = None,
    epoch: int = 64,
    **options: Any,
) -> tuple[pl.Trainer, Logged]:
    plugins = options.pop("plugins", None)
    trainer = pl.Trainer(
        max_steps=steps, logger=False, accelerator="cpu", devices=1, callbacks=list(callbacks),
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        limit_val_batches=0, plugins=plugins, limit_train_batches=epoch,
    )  # fmt: skip
    model = model or Logged()
    trainer.fit(model, **options)
    return trainer, model


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def step_of(path: Path) -> int:
    manifest = verify(path)
    assert manifest is not None
    return manifest.step


def test_it_needs_nothing_else(tmp_path: Path) -> None:
    trainer, _ = fit(tmp_path, AtomicCheckpoint())
    (path,) = (tmp_path / "checkpoints").iterdir()
    assert step_of(path) == 6
    assert isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO)
    assert trainer.checkpoint_callback is not None
    assert str(path) == trainer.checkpoint_callback.best_model_path


def test_another_plugin_in_its_place_is_said(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="the Trainer has a AsyncCheckpointIO"):
        fit(tmp_path, AtomicCheckpoint(), plugins=AsyncCheckpointIO())


@pytest.mark.parametrize("async_save", [False, True])
def test_best_last_and_periodic_are_kept_beside_each_other(
    async_save: bool, tmp_path: Path
) -> None:
    saver = AtomicCheckpoint(
        tmp_path, "best-{step}", "loss", save_last=True, save_top_k=2, every_n_train_steps=2,
        periodic_every_n_steps=3, keep_periodic=2, async_save=async_save,
    )  # fmt: skip
    fit(tmp_path, saver, steps=10)
    assert names(tmp_path) == [
        "best-step=10.ckpt", "best-step=8.ckpt", "last.ckpt",
        "periodic-step=6.ckpt", "periodic-step=9.ckpt",
    ]  # fmt: skip
    assert step_of(tmp_path / "last.ckpt") == 10
    manifest = read_manifest(tmp_path / "best-step=8.ckpt")
    assert manifest is not None
    assert manifest.metrics == {"loss": -7.0}
    assert manifest.reason == "best"


def test_what_is_inside_loads_safely(tmp_path: Path) -> None:
    fit(tmp_path, AtomicCheckpoint(tmp_path, "a"))
    inside = torch.load(tmp_path / "a.ckpt", weights_only=True)["lightning_arrcoc"]
    assert inside["architecture"]["shapes"]["layer.weight"] == [2, 32]
    assert inside["versions"]["torch"] == torch.__version__
    assert set(inside["rng"]["0"]) == {"torch", "cuda", "numpy", "python"}
    assert {"host", "git", "saved_at", "metrics", "reason"} <= set(inside)


class Shuffled(Logged):
    """Its loader draws as well, from the global generator or from its own."""

    def __init__(self, generator: torch.Generator | None) -> None:
        super().__init__()
        self.generator = generator

    def train_dataloader(self) -> Any:
        data = RandomDataset(32, 64)
        return torch.utils.data.DataLoader(data, shuffle=True, generator=self.generator)


@pytest.mark.parametrize("where", ["within an epoch", "between epochs"])
def test_a_resumed_run_draws_the_numbers_it_would_have_drawn(where: str, tmp_path: Path) -> None:
    """Of torch, numpy and python alike."""

    def run(keep: int, **options: Any) -> list[float]:
        within = where == "within an epoch"
        saver = AtomicCheckpoint(tmp_path, "{step}", every_n_train_steps=3, save_top_k=keep)
        model = Shuffled(None if within else torch.Generator())
        return fit(tmp_path, saver, model=model, epoch=64 if within else 3, **options)[1].drawn

    whole = run(-1)
    (tmp_path / "step=6.ckpt").unlink()
    torch.manual_seed(2)
    assert run(0, ckpt_path="last_verified") == whole[3:]


def test_resuming_takes_the_latest_sound_step(tmp_path: Path) -> None:
    fit(tmp_path, AtomicCheckpoint(tmp_path, periodic_every_n_steps=2, save_top_k=0))
    path = tmp_path / "periodic-step=6.ckpt"
    path.write_bytes(path.read_bytes()[:-100])
    saver = AtomicCheckpoint(tmp_path, periodic_every_n_steps=2, save_top_k=0)
    with pytest.warns(UserWarning, match=r"renamed to periodic-step=6\.ckpt\.corrupt"):
        _, model = fit(tmp_path, saver, ckpt_path="last_verified")
    assert len(model.drawn) == 2  # from step 4 to 6


def test_without_any_checkpoint_the_run_starts_anew(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="no checkpoint yet: the run starts anew"):
        trainer, _ = fit(tmp_path, AtomicCheckpoint(tmp_path / "a"), ckpt_path="last_verified")
    assert trainer.global_step == 6


def test_only_unverifiable_checkpoints_are_no_start(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="no checkpoint that can be verified: 0 damaged, 1"):
        fit(tmp_path, AtomicCheckpoint(tmp_path), ckpt_path="last_verified")


@pytest.fixture
def store() -> Iterator[Any]:
    found = fsspec.filesystem("memory")
    yield found
    found.store.clear()


@pytest.mark.parametrize("where", ["folder", "store"])
def test_the_last_verified_one_of_another_folder_may_be_named(
    where: str, store: Any, tmp_path: Path
) -> None:
    other = str(tmp_path / "other") if where == "folder" else "memory://other"
    fit(tmp_path, AtomicCheckpoint(other, periodic_every_n_steps=2, save_top_k=0))
    if where == "folder":
        path = tmp_path / "other" / "periodic-step=6.ckpt"
        path.write_bytes(path.read_bytes()[:-9])
    else:
        path = "/other/periodic-step=6.ckpt"
        store.pipe_file(path, store.cat_file(path)[:-9])
    saver = AtomicCheckpoint(tmp_path / "own", periodic_every_n_steps=2, save_top_k=0)
    with pytest.warns(UserWarning, match=r"damaged .* renamed to periodic-step=6\.ckpt\.corrupt"):
        _, model = fit(tmp_path, saver, ckpt_path=f"{other}/last_verified")
    assert len(model.drawn) == 2  # from step 4 to 6
    assert names(tmp_path / "own") == ["periodic-step=6.ckpt"]


def test_a_folder_that_is_named_must_have_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint in .*nowhere"):
        fit(tmp_path, AtomicCheckpoint(tmp_path), ckpt_path=tmp_path / "nowhere/last_verified")


def test_the_one_it_goes_on_from_is_not_pruned(tmp_path: Path) -> None:
    saver = {"every_n_train_steps": 2, "enable_version_counter": False}
    fit(tmp_path, AtomicCheckpoint(tmp_path, "{step}", **saver), steps=2)
    fit(tmp_path, AtomicCheckpoint(tmp_path, "{step}", **saver), ckpt_path="last_verified")
    assert names(tmp_path) == ["step=2.ckpt", "step=6.ckpt"]


def test_a_damaged_one_that_cannot_be_renamed_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(tmp_path, AtomicCheckpoint(tmp_path, periodic_every_n_steps=3, save_top_k=0))
    path = tmp_path / "periodic-step=6.ckpt"
    path.write_bytes(path.read_bytes()[:-9])
    monkeypatch.setattr(Path, "rename", lambda *_: full_disk())
    saver = AtomicCheckpoint(tmp_path, periodic_every_n_steps=3, save_top_k=0)
    with pytest.warns(UserWarning, match="could not be renamed: .*No space left"):
        _, model = fit(tmp_path, saver, ckpt_path="last_verified")
    assert len(model.drawn) == 3


# ---------------------------------------------------------------------------------------- events


class Listening(pl.Callback):
    def __init__(self) -> None:
        self.heard: list[Event] = []

    def on_event(self, event: Event) -> None:
        self.heard.append(event)


@pytest.mark.parametrize("async_save", [False, True])
def test_what_became_of_each_save_is_recorded(
    async_save: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listening = Listening()
    saver = AtomicCheckpoint(
        tmp_path, periodic_every_n_steps=2, save_top_k=0, on_save_error="warn",
        async_save=async_save,
    )  # fmt: skip
    ask = AtStep(4, lambda trainer: saver.request_save("memory critical"))
    with pytest.warns(UserWarning, match="No space left"):
        fit(tmp_path, saver, listening, ask, FullBetween(range(2, 3), monkeypatch))
    told = [(event.name, event.fields) for event in listening.heard]
    assert [name for name, _ in told] == [
        "checkpoint/failed", "checkpoint/saved", "checkpoint/emergency", "checkpoint/saved",
        "checkpoint/saved",
    ]  # fmt: skip
    assert "No space left" in told[0][1]["error"]
    assert told[2][1] == {"reason": "memory critical"}
    saved = [fields for name, fields in told if name == "checkpoint/saved"]
    assert [(one["saved_step"], one["reason"]) for one in saved] == [
        (4, "periodic"), (5, "memory critical"), (6, "periodic"),
    ]  # fmt: skip
    assert {Path(one["path"]).name for one in saved} == set(names(tmp_path))


def test_a_bad_end_and_what_is_set_aside_are_recorded(tmp_path: Path) -> None:
    first, second = Listening(), Listening()
    with pytest.raises(BrokenError):
        fit(tmp_path, AtomicCheckpoint(tmp_path, save_top_k=0), first, AtStep(3, fail))
    assert [event.name for event in first.heard] == ["checkpoint/emergency", "checkpoint/saved"]
    assert first.heard[0].fields == {"reason": "BrokenError"}
    path = tmp_path / "emergency-step=3.ckpt"
    path.write_bytes(path.read_bytes()[:-9])
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(ValueError, match="no checkpoint that can be verified"),
    ):
        fit(tmp_path, AtomicCheckpoint(tmp_path), second, ckpt_path="last_verified")
    (event,) = second.heard
    assert event.name == "checkpoint/quarantined"
    assert event.fields["renamed_to"] == f"{path}.corrupt"


# ------------------------------------------------------------------------------------ emergencies


class BrokenError(RuntimeError):
    pass


def fail(_: Any) -> None:
    raise BrokenError("the run's own error")


def raise_signal(number: int) -> Any:
    return lambda _: signal.raise_signal(number)


def test_an_exception_is_saved_before_and_stays_the_one_shown(tmp_path: Path) -> None:
    with pytest.raises(BrokenError, match="own error"):
        fit(tmp_path, AtomicCheckpoint(tmp_path, save_top_k=0), AtStep(3, fail))
    assert names(tmp_path) == ["emergency-step=3.ckpt"]
    manifest = read_manifest(tmp_path / "emergency-step=3.ckpt")
    assert manifest is not None
    assert manifest.reason == "BrokenError"


def test_when_that_save_fails_too_the_original_error_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic_checkpoint_io, "write_checkpoint", full_disk)
    with (
        pytest.warns(UserWarning, match="No checkpoint could be saved after the run failed"),
        pytest.raises(BrokenError, match="own error"),
    ):
        fit(tmp_path, AtomicCheckpoint(tmp_path, save_top_k=0), AtStep(3, fail))


def test_sigterm_saves_and_lightning_stops_the_run(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SIGTERMException):
        fit(
            tmp_path,
            AtomicCheckpoint(tmp_path, save_top_k=0),
            AtStep(2, raise_signal(signal.SIGTERM)),
        )
    assert names(tmp_path) == ["emergency-step=3.ckpt"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_ctrl_c_saves_at_the_end_of_the_step_and_stops(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit):
        fit(
            tmp_path,
            AtomicCheckpoint(tmp_path, save_top_k=0),
            AtStep(2, raise_signal(signal.SIGINT)),
        )
    assert names(tmp_path) == ["emergency-step=3.ckpt"]
    assert signal.getsignal(signal.SIGINT) == before


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    def twice(_: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(SystemExit):
        fit(tmp_path, AtomicCheckpoint(tmp_path, save_top_k=0), AtStep(2, twice))
    assert names(tmp_path) == []


@pytest.mark.parametrize("how", ["SIGUSR1", "file", "callback"])
def test_a_request_is_saved_and_the_run_goes_on(how: str, tmp_path: Path) -> None:
    saver = AtomicCheckpoint(tmp_path, save_top_k=0)
    ways = {
        "SIGUSR1": raise_signal(signal.SIGUSR1),
        "file": lambda _: (tmp_path / "SAVE").touch(),
        "callback": lambda trainer: trainer.checkpoint_callbacks[0].request_save("memory critical"),
    }
    trainer, _ = fit(tmp_path, saver, AtStep(2, ways[how]))
    assert trainer.global_step == 6
    assert names(tmp_path) == ["emergency-step=3.ckpt"]
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_only_the_latest_emergency_is_kept(tmp_path: Path) -> None:
    class Ask(pl.Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            trainer.checkpoint_callback.request_save("again")

    fit(tmp_path, AtomicCheckpoint(tmp_path, save_top_k=0), Ask())
    assert names(tmp_path) == ["emergency-step=6.ckpt"]


def test_of_two_the_first_sees_to_emergencies(tmp_path: Path) -> None:
    first = AtomicCheckpoint(tmp_path / "a", save_top_k=0)
    second = AtomicCheckpoint(tmp_path / "b", "last", monitor="loss")
    with pytest.raises(SIGTERMException):
        fit(tmp_path, first, second, AtStep(2, raise_signal(signal.SIGTERM)))
    assert names(tmp_path / "a") == ["emergency-step=3.ckpt"]
    assert not (tmp_path / "b").exists() or names(tmp_path / "b") == []


def test_of_two_either_may_be_asked(tmp_path: Path) -> None:
    first = AtomicCheckpoint(tmp_path / "a", save_top_k=0)
    second = AtomicCheckpoint(tmp_path / "b", "last", monitor="loss")
    fit(tmp_path, first, second, AtStep(2, lambda _: second.request_save("memory critical")))
    assert names(tmp_path / "a") == ["emergency-step=3.ckpt"]


# ---------------------------------------------------------------------------------- failed saves


def full_disk(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


class FullBetween(pl.Callback):
    """The disk is full from one step to another."""

    def __init__(self, steps: range, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps, self.monkeypatch = steps, monkeypatch

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.strategy.checkpoint_io.wait()  # what is being saved began before
        full = trainer.global_step + 1 in self.steps
        write = full_disk if full else write_checkpoint
        self.monkeypatch.setattr(atomic_checkpoint_io, "write_checkpoint", write)


@pytest.mark.parametrize("async_save", [False, True])
def test_a_full_disk_is_endured_and_the_one_before_stands(
    async_save: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = AtomicCheckpoint(
        tmp_path, "{step}", every_n_train_steps=1, on_save_error="warn", async_save=async_save
    )
    with pytest.warns(UserWarning, match="No space left on device"):
        trainer, _ = fit(tmp_path, saver, FullBetween(range(3, 7), monkeypatch), steps=5)
    assert trainer.global_step == 5
    assert names(tmp_path) == ["step=2.ckpt"]
    assert async_save or saver.best_model_path == str(tmp_path / "step=2.ckpt")


@pytest.mark.parametrize("async_save", [False, True])
def test_a_full_disk_raises_where_nothing_else_was_asked(
    async_save: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = AtomicCheckpoint(tmp_path, "{step}", every_n_train_steps=1, async_save=async_save)
    with pytest.raises(OSError, match="No space left on device"):
        fit(tmp_path, saver, FullBetween(range(3, 9), monkeypatch))
    assert names(tmp_path) == ["step=2.ckpt"]


def test_in_the_background_an_error_is_raised_at_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not first at the next save, two steps later."""
    training_goes_on = threading.Event()

    def fails_later(*given: Any) -> None:
        assert training_goes_on.wait(60)
        full_disk(*given)

    class GoingOn(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == 3:
                training_goes_on.set()
                trainer.strategy.checkpoint_io.wait()

    monkeypatch.setattr(atomic_checkpoint_io, "write_checkpoint", fails_later)
    saver = AtomicCheckpoint(tmp_path, "{step}", every_n_train_steps=3, async_save=True)
    model = Logged()
    with pytest.raises(OSError, match="No space left on device"):
        fit(tmp_path, saver, GoingOn(), model=model)
    assert len(model.drawn) == 4


def test_too_many_failures_in_a_row_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = AtomicCheckpoint(
        tmp_path, "{step}", every_n_train_steps=1, on_save_error="warn", max_save_errors=2
    )
    with (
        pytest.warns(UserWarning, match=r"1 of 2 in a row|2 of 2 in a row"),
        pytest.raises(OSError, match="No space left on device"),
    ):
        fit(tmp_path, saver, FullBetween(range(2, 9), monkeypatch))
    assert names(tmp_path) == ["step=1.ckpt"]


# ------------------------------------------------------------------------------------- resuming


class Textured(Logged):
    """Says what its shapes do not tell."""

    def __init__(self, channels: list[str], width: int = 32) -> None:
        super().__init__()
        self.channels = channels
        self.extra = torch.nn.Linear(width, len(channels))

    def architecture(self) -> dict[str, Any]:
        return {"texture": {"channels": self.channels, "out_channels": len(self.channels)}}


def test_another_architecture_is_refused_with_a_table_before_a_weight_is_touched(
    tmp_path: Path,
) -> None:
    fit(tmp_path, AtomicCheckpoint(tmp_path, "a"), model=Textured(["red", "green"]))
    other = Textured(["red", "green", "blue"])
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(ValueError, match="nothing was loaded") as caught:
        fit(tmp_path, AtomicCheckpoint(tmp_path), model=other, ckpt_path=tmp_path / "a.ckpt")
    for row in (
        "                       checkpoint  here\n",
        "texture.channels.blue  absent      2\n",
        "texture.out_channels   2           3\n",
        "extra.weight           [2, 32]     [3, 32]\n",
    ):
        assert row in str(caught.value)
    assert all(torch.equal(before[name], value) for name, value in other.state_dict().items())


def test_what_a_module_says_may_differ_may(tmp_path: Path) -> None:
    class Budgeted(Logged):
        def __init__(self, budget: int) -> None:
            super().__init__()
            self.budget = budget

        def architecture(self) -> dict[str, Any]:
            return {"kind": "small", "may_differ": {"budget": self.budget}}

    fit(tmp_path, AtomicCheckpoint(tmp_path, "a"), model=Budgeted(3))
    told = torch.load(tmp_path / "a.ckpt", weights_only=True)["lightning_arrcoc"]["architecture"]
    assert told["own"]["may_differ"] == {"budget": 3}
    fit(tmp_path, AtomicCheckpoint(), model=Budgeted(5), ckpt_path=tmp_path / "a.ckpt")


def test_what_a_checkpoint_does_not_hold_is_not_compared(tmp_path: Path) -> None:
    """A module may leave out of its checkpoints what is frozen, and build it otherwise."""

    class Frozen(Logged):
        strict_loading = False

        def __init__(self, width: int) -> None:
            super().__init__()
            self.frozen = torch.nn.Linear(width, 2).requires_grad_(False)
            self.register_buffer("passing", torch.zeros(width), persistent=False)

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            weights = checkpoint["state_dict"]
            checkpoint["state_dict"] = {name: weights[name] for name in weights
                                        if not name.startswith("frozen")}  # fmt: skip

    fit(tmp_path, AtomicCheckpoint(tmp_path, "a"), model=Frozen(3), steps=2)
    trainer, _ = fit(
        tmp_path, AtomicCheckpoint(), model=Frozen(5), ckpt_path=tmp_path / "a.ckpt", steps=3
    )
    assert trainer.global_step == 3


def test_a_stock_checkpoint_of_other_shapes_is_refused_before_a_weight_is_touched(
    tmp_path: Path,
) -> None:
    fit(tmp_path, ModelCheckpoint(tmp_path, "a"), model=Textured(["red", "green"]))
    other = Textured(["red"])
    before = other.layer.weight.detach().clone()
    with (
        pytest.warns(UserWarning, match="has no manifest"),
        pytest.raises(ArchitectureError, match=r"extra\.weight +\[2, 32\] +\[1, 32\]"),
    ):
        fit(tmp_path, AtomicCheckpoint(), model=other, ckpt_path=tmp_path / "a.ckpt")
    assert torch.equal(other.layer.weight, before)


def test_what_fits_is_loaded_when_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, saved = fit(tmp_path, AtomicCheckpoint(tmp_path, "a"), model=Textured(["red"]))
    weight = saved.layer.weight.detach().clone()
    other = Textured(["red", "green"])
    saver, begun = AtomicCheckpoint(tmp_path, "b", partial="report"), []

    class Begun(pl.Callback):
        def on_train_start(self, *_: Any) -> None:
            begun.append(other.layer.weight.detach().clone())

    trainer, _ = fit(tmp_path, saver, Begun(), steps=1, model=other, ckpt_path=tmp_path / "a.ckpt")
    assert trainer.global_step == 1
    assert torch.equal(begun[0], weight)
    assert "Loaded 2 of 4 tensors by name and shape" in caplog.text


@pytest.mark.parametrize(
    ("resume", "steps", "moments"),
    [("all", 2, 6), ("weights", 6, 6), ("without_optimizer", 2, 2), ("without_loops", 6, 10)],
)
def test_a_run_resumes_what_it_is_asked_to(
    resume: Any, steps: int, moments: int, tmp_path: Path
) -> None:
    class Adam(Logged):
        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=1e-3)

    fit(tmp_path, AtomicCheckpoint(tmp_path, "a"), steps=4, model=Adam())
    trainer, model = fit(
        tmp_path, AtomicCheckpoint(tmp_path, "b", resume=resume), model=Adam(),
        ckpt_path=tmp_path / "a.ckpt",
    )  # fmt: skip
    assert len(model.drawn) == steps
    counted = {float(state["step"]) for state in trainer.optimizers[0].state.values()}
    assert counted == {moments}


@pytest.mark.parametrize("filename", ["../a", "/a", "a\0", "a/../../b", " "])
def test_names_stay_in_their_folder(filename: str) -> None:
    with pytest.raises(ValueError, match="leads out of the folder"):
        AtomicCheckpoint(filename=filename)


@pytest.mark.parametrize(
    ("name", "value"),
    [("resume", "half"), ("partial", "yes"), ("on_save_error", "ignore"), ("signals", ["SIGKILL"]),
     ("periodic_every_n_steps", 0)],
)  # fmt: skip
def test_bad_arguments_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        AtomicCheckpoint(**{name: value})


def test_it_observes_and_leaves_nothing_behind(tmp_path: Path) -> None:
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    saver = AtomicCheckpoint(tmp_path / "a", every_n_train_steps=1, async_save=True)
    torch.manual_seed(0)
    _, watched = fit(tmp_path, saver, model=Logged())
    torch.manual_seed(0)
    _, alone = fit(tmp_path, model=Logged(), ckpt_path=None)
    for name, value in watched.state_dict().items():
        assert torch.equal(value, alone.state_dict()[name])
    assert handlers == {number: signal.getsignal(number) for number in signal.valid_signals()}
    assert not [one for one in threading.enumerate() if one.name.startswith("checkpoint")]


class Validated(BoringModel):
    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val/loss", 1.0)
        return super().validation_step(batch, batch_idx)


def test_a_metric_that_never_comes_is_answered_with_the_nearest_at_the_first_validation(
    tmp_path: Path,
) -> None:
    trainer = pl.Trainer(
        max_epochs=3, limit_train_batches=2, limit_val_batches=1, num_sanity_val_steps=1,
        callbacks=[AtomicCheckpoint(tmp_path, monitor="val/los")], logger=False, accelerator="cpu",
        devices=1, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    wanted = r"monitors 'val/los', which no validation logged\. Nearest: monitor='val/loss'\. There"
    with pytest.raises(MisconfigurationException, match=wanted):
        trainer.fit(Validated())
    assert trainer.global_step == 2
