"""A run that was killed and resumed ends with the weights of one that was not, bit for bit."""

from __future__ import annotations

import multiprocessing
import runpy
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

SCRIPT = Path(__file__).parent / "short_run.py"
PATIENCE_S = 600  # a run takes seconds, but a busy machine is no failure
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["lightning_arrcoc.module", "lightning_arrcoc.data.datamodule"])

pytestmark = pytest.mark.filterwarnings(
    "ignore:You're resuming from a checkpoint that ended before",  # the negative control
    "ignore:.*`weights_only` was not specified",
)


def kill_points(count: int, seed: int) -> list[int]:
    """Steps before which a run is killed; a first checkpoint is there at step 2."""
    drawn = np.random.default_rng(seed).choice(range(2, short.STEPS), count, replace=False)
    return sorted(int(step) for step in drawn)


short = SimpleNamespace(**runpy.run_path(str(SCRIPT)))
THREE = kill_points(3, seed=2026)

Weights = dict[str, Tensor]
Run = Callable[..., Weights]


def kill(folder: Path, how: Any, checkpoint: Path | None = None) -> Path:
    """Train in a process that kills itself; its last checkpoint."""
    words = {
        "FOLDER": str(folder),
        "HOW": how._asdict(),
        "CHECKPOINT": str(checkpoint) if checkpoint else None,
    }
    process = FORKED.Process(target=runpy.run_path, args=(str(SCRIPT), words, "killed"))
    process.start()
    process.join(PATIENCE_S)
    assert process.exitcode == -signal.SIGKILL
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


@pytest.mark.parametrize("step", [2, 4])
def test_a_run_killed_between_two_batches_of_a_step_ends_the_same(
    step: int, whole: Callable[..., Weights], interrupted: Run
) -> None:
    """And its checkpoint may have been written there: Lightning does so after a resume."""
    given = {"accumulate": 2, "saved_every": 1}
    assert_same(interrupted(step, step + 1, **given), whole(accumulate=2))


@pytest.mark.parametrize("step", [3, 4, 9])
@pytest.mark.parametrize("saved_every", [1, 3])
def test_a_curriculum_advances_as_it_would_have(
    step: int, saved_every: int, whole: Callable[..., Weights], interrupted: Run
) -> None:
    """Three steps in the first stage, then four an epoch; the last batch of an epoch included."""
    assert_same(interrupted(step + 1, staged=True, saved_every=saved_every), whole(staged=True))
    assert whole(staged=True).keys() == whole().keys()
    assert any(not torch.equal(a, whole()[n]) for n, a in whole(staged=True).items())


def test_dropout_draws_what_it_would_have(whole: Callable[..., Weights], interrupted: Run) -> None:
    pytest.importorskip("peft")
    assert_same(interrupted(THREE[1], adapters=True), whole(adapters=True))


def test_with_a_plain_loader_it_ends_otherwise(
    whole: Callable[..., Weights], interrupted: Run
) -> None:
    """Negative control: every test above would notice."""
    with pytest.raises(AssertionError):
        assert_same(interrupted(THREE[1], plain=True), whole(plain=True))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_many_runs_killed_three_times_at_random_end_the_same(
    seed: int, workers: int, whole: Callable[..., Weights], interrupted: Run
) -> None:
    saved = {"saved_every": 1 + seed, "resumed": {"workers": (workers + seed) % 3}}
    steps = [step for step in kill_points(3, seed) if step > 1 + seed]
    assert_same(interrupted(*steps, workers=workers, **saved), whole())
