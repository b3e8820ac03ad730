"""A run that was killed and resumed ends with the weights of one that was not, bit for bit."""

from __future__ import annotations

import multiprocessing
import runpy
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torchmetrics import MeanMetric

from lightning_arrcoc import ArrCocModule, ArrCocQwen3VL, VqaDataModule
from lightning_arrcoc.objectives.lesson import Lesson, nothing_to_learn
from lightning_arrcoc.resume import under_way

SCRIPT = Path(__file__).parent / "short_run.py"
PATIENCE_S = 600  # a run takes seconds, but a busy machine is no failure
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["lightning_arrcoc.module", "lightning_arrcoc.data.datamodule"])

pytestmark = pytest.mark.filterwarnings(
    "ignore:You're resuming from a checkpoint that ended before",  # the negative control
    "ignore:The dirpath has changed from",  # a resumed run has a folder of its own
)


def kill_points(count: int, seed: int) -> list[int]:
    """Steps before which a run is killed; a first checkpoint is there at step 2."""
    drawn = np.random.default_rng(seed).choice(range(2, short.STEPS), count, replace=False)
    return sorted(int(step) for step in drawn)


short = SimpleNamespace(**runpy.run_path(str(SCRIPT)))
THREE = kill_points(3, seed=2026)

Weights = dict[str, Tensor]
Run = Callable[..., Weights]


def start(name: str, **given: Any) -> int | None:
    """Run the script by a name in a process of its own; how it ended."""
    process = FORKED.Process(target=runpy.run_path, args=(str(SCRIPT), given, name))
    process.start()
    process.join(PATIENCE_S)
    return process.exitcode


def kill(folder: Path, how: Any, checkpoint: Path | None = None) -> Path:
    """Train in a process that kills itself; its last checkpoint."""
    path = str(checkpoint) if checkpoint else None
    ended = start("killed", FOLDER=str(folder), HOW=how._asdict(), CHECKPOINT=path)
    assert ended == -signal.SIGKILL
    return folder / "last.ckpt"


def assert_same(one: Weights, other: Weights) -> None:
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


@pytest.fixture(scope="module")
def whole(
    backbone_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Weights]:
    """The weights at the end of a run that nobody kills; each kind is run once."""
    known: dict[Any, Weights] = {}

    def run(**given: Any) -> Weights:
        how = short.How(str(backbone_folder), **given)
        if how not in known:
            known[how] = short.train(tmp_path_factory.mktemp("whole"), how)
        return known[how]

    return run


@pytest.fixture
def interrupted(backbone_folder: Path, tmp_path: Path) -> Run:
    """The weights at the end of a run that is killed before each of some steps, and resumed."""

    def run(*steps: int, resumed: dict[str, Any] | None = None, **given: Any) -> Weights:
        how = short.How(str(backbone_folder), **given)
        checkpoint = None
        for step in steps:
            checkpoint = kill(tmp_path, how._replace(kill_at=step), checkpoint)
        assert checkpoint is not None
        begun = torch.load(checkpoint, weights_only=True)["global_step"]
        assert 0 < begun < short.STEPS
        weights: Weights = short.train(tmp_path, how._replace(**(resumed or {})), checkpoint)
        return weights

    return run


# ----------------------------------------------------------------------------- between two batches


class Scored:
    """An objective that calls a batch as accurate as it is bright."""

    def __call__(self, model: Any, inputs: dict[str, Any], progress: float) -> Lesson:
        score = inputs["pixel_values"].float().mean().sigmoid()
        return Lesson(nothing_to_learn(model), {"accuracy": score})


class Noting(pl.Callback):
    """Notes the epoch's accuracy as a callback reads it, when the epoch ends."""

    def __init__(self) -> None:
        self.means: list[float] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.means.append(float(trainer.callback_metrics["train/accuracy_epoch"]))


def means(folder: Path, backbone: Path, checkpoint: Path | None = None) -> list[float]:
    noting = Noting()
    saving = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = pl.Trainer(
        max_steps=9, max_epochs=-1, limit_val_batches=0, accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        callbacks=[noting, saving],
    )  # fmt: skip
    model = ArrCocQwen3VL.from_pretrained(str(backbone))
    data = VqaDataModule(short.Flickering(), batch_size=2, num_workers=0, seed=0)
    module = ArrCocModule(model, objective=Scored())
    trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    return noting.means


@pytest.mark.parametrize("step", [3, 5, 8], ids=["within", "behind the last batch", "second"])
def test_the_mean_over_an_epoch_is_that_of_the_whole_epoch(
    step: int, backbone_folder: Path, tmp_path: Path
) -> None:
    """Five steps an epoch; a curriculum decides by this mean."""
    whole = means(tmp_path, backbone_folder)
    assert len(set(whole)) == len(whole) == 2
    resumed = means(tmp_path / "resumed", backbone_folder, tmp_path / f"step={step}.ckpt")
    assert resumed == whole[step // 6 :]


def test_once_a_run_has_failed_no_other_process_is_asked() -> None:
    """A last checkpoint is saved by one that may be alone."""
    mean = MeanMetric(distributed_available_fn=lambda: True)  # which nobody could ask here
    mean.update(3.0)
    trainer = SimpleNamespace(
        fit_loop=SimpleNamespace(batch_idx=0), accumulate_grad_batches=1, is_last_batch=False
    )
    module: Any = SimpleNamespace(trainer=trainer)
    trainer.interrupted = True
    assert float(under_way(module, mean)["mean"]["mean_value"]) == 3
    trainer.interrupted = False
    with pytest.raises(ValueError, match="process group has not been initialized"):
        under_way(module, mean)


# ------------------------------------------------------------------------------------------ killed


def test_the_run_is_worth_killing(whole: Callable[..., Weights], backbone_folder: Path) -> None:
    """It learns, and what workers load is what the process itself would."""
    before = short.ArrCocQwen3VL.from_pretrained(str(backbone_folder)).arr_coc.state_dict()
    after = whole()
    assert any(not torch.equal(after[f"arr_coc.{name}"], before[name]) for name in before)
    assert_same(whole(workers=2), after)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("step", THREE)
def test_a_run_killed_at_a_random_step_ends_the_same(
    step: int, workers: int, whole: Callable[..., Weights], interrupted: Run
) -> None:
    assert_same(interrupted(step, workers=workers), whole())


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 1)])
def test_it_may_be_resumed_with_another_number_of_workers(
    before: int, after: int, whole: Callable[..., Weights], interrupted: Run
) -> None:
    resumed = interrupted(THREE[1], workers=before, resumed={"workers": after})
    assert_same(resumed, whole())


def test_a_run_may_be_killed_time_and_again(
    whole: Callable[..., Weights], interrupted: Run
) -> None:
    assert_same(interrupted(*THREE), whole())


def test_a_run_killed_behind_an_epochs_last_batch_ends_the_same(
    whole: Callable[..., Weights], interrupted: Run
) -> None:
    """Five steps an epoch, and a checkpoint every five."""
    assert_same(interrupted(6, saved_every=5), whole())


def test_a_run_killed_between_two_batches_of_a_step_ends_the_same(
    whole: Callable[..., Weights], backbone_folder: Path, tmp_path: Path
) -> None:
    """Its checkpoint may have been written there, too: Lightning does so after a resume."""
    how = short.How(str(backbone_folder), accumulate=2, saved_every=1, kill_at=6)
    checkpoint = kill(tmp_path, how, kill(tmp_path, how))
    assert torch.load(checkpoint, weights_only=True)["under_way"]["gradients"]
    resumed = short.train(tmp_path, how._replace(kill_at=None), checkpoint)
    assert_same(resumed, whole(accumulate=2))


@pytest.mark.parametrize(("step", "saved_every"), [(4, 3), (3, 2)])
def test_a_curriculum_advances_as_it_would_have(
    step: int, saved_every: int, whole: Callable[..., Weights], interrupted: Run
) -> None:
    """Three steps in the first stage; saved behind its last batch, or before."""
    assert_same(interrupted(step, staged=True, saved_every=saved_every), whole(staged=True))
    with pytest.raises(AssertionError):
        assert_same(whole(staged=True), whole())


def test_dropout_draws_what_it_would_have(whole: Callable[..., Weights], interrupted: Run) -> None:
    pytest.importorskip("peft")
    assert_same(interrupted(THREE[1], adapters=True), whole(adapters=True))


def test_with_a_plain_loader_it_ends_otherwise(
    whole: Callable[..., Weights], interrupted: Run
) -> None:
    """Negative control: every test above would notice."""
    with pytest.raises(AssertionError):
        assert_same(interrupted(THREE[1], plain=True), whole(plain=True))


def fit(folder: Path, *words: str, kill_at: int | None = None) -> Path:
    """A short run from the command line; its last checkpoint."""
    folder.mkdir()
    given = [
        "fit", "experiment=debug", "model.random_weights=true", "trainer.max_steps=8",
        "trainer.val_check_interval=3", "callbacks.latest.every_n_train_steps=2", "logger=none",
        "data.num_workers=2", "data.batch_size=2", "data.train.length=6", "data.train.turns=2",
        "data.train.canvas_px=[96,96]", "data.train.digits=2", "data.train.families=[place]",
        "data.val.length=2", "data.test=null", *words,
    ]  # fmt: skip
    ended = start("command", FOLDER=str(folder), WORDS=given, KILL_AT=kill_at)
    assert ended == (0 if kill_at is None else -signal.SIGKILL)
    (last,) = folder.rglob("last.ckpt")
    return last


def test_a_run_is_resumed_from_the_command_line(tmp_path: Path) -> None:
    """Three steps an epoch; killed in the second, with what ships as configuration."""
    killed = fit(tmp_path / "killed", kill_at=5)
    assert torch.load(killed, weights_only=True)["global_step"] == 4
    resumed = torch.load(fit(tmp_path / "resumed", f"ckpt={killed}"), weights_only=True)
    whole = torch.load(fit(tmp_path / "whole"), weights_only=True)
    assert resumed["global_step"] == whole["global_step"] == 8
    assert_same(resumed["state_dict"], whole["state_dict"])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_many_runs_killed_three_times_at_random_end_the_same(
    seed: int, workers: int, whole: Callable[..., Weights], interrupted: Run
) -> None:
    saved = {"saved_every": 1 + seed, "resumed": {"workers": (workers + seed) % 3}}
    steps = [step for step in kill_points(3, seed) if step > 1 + seed]
    assert_same(interrupted(*steps, workers=workers, **saved), whole())
