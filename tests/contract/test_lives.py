"""A drop-in's life goes on: in a second run, in a file, and in a resumed run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from .registry import PIECES, placed
from .running import Outcome, compare, run
from .scenarios import QUIET, SCENARIOS, Data, Plain

pytestmark = pytest.mark.filterwarnings(
    "ignore:The dirpath has changed from",  # a resumed run has a folder of its own
)
CALLBACKS = [key for key, piece in PIECES.items() if placed([piece.make(Path())])["callbacks"]]


@pytest.mark.parametrize("key", PIECES)
def test_one_instance_fits_twice(key: str, bare: Callable[..., Outcome], tmp_path: Path) -> None:
    piece = PIECES[key]
    settings = piece.settings(tmp_path)
    for name in ("first", "second"):
        found = run(SCENARIOS["plain"], tmp_path / name, **settings)
        compare(found, bare("plain", **piece.trainer))


@pytest.mark.parametrize("key", PIECES)
def test_one_trainer_fits_twice_validates_and_tests(key: str, tmp_path: Path) -> None:
    piece = PIECES[key]
    weights = []
    for settings in (piece.trainer, piece.settings(tmp_path)):
        pl.seed_everything(0, verbose=False)
        module = Plain()
        trainer = pl.Trainer(**{**QUIET, "default_root_dir": tmp_path, **settings})
        trainer.fit(module, Data())
        trainer.fit_loop.max_epochs = 3
        trainer.fit(module, Data())
        trainer.validate(module, Data(), verbose=False)
        trainer.test(module, Data(), verbose=False)
        weights.append(torch.cat([value.flatten() for value in module.state_dict().values()]))
    assert weights[0].equal(weights[1])


@pytest.mark.parametrize("key", CALLBACKS)
def test_its_state_survives_a_file_and_a_resumed_run(key: str, tmp_path: Path) -> None:
    piece = PIECES[key]
    (made, fresh, resumed) = (piece.make(tmp_path) for _ in range(3))
    path, state = fit(piece.trainer, made, tmp_path, epochs=2)
    saved = torch.load(path, weights_only=True)["callbacks"].get(made.state_key, {})
    assert same(saved, state)
    if saved:
        fresh.load_state_dict(deepcopy(saved))
        assert same(fresh.state_dict(), state)
    watching = Watching(resumed)
    fit(piece.trainer, resumed, tmp_path, watching, epochs=3, resume=path)
    assert same(watching.states[0], state)


@pytest.mark.parametrize("key", [key for key in PIECES if key not in CALLBACKS])
def test_a_run_resumes_with_it_as_without(key: str, tmp_path: Path) -> None:
    piece = PIECES[key]
    ends = []
    for make in (piece.make, lambda folder: pl.Callback()):
        path, _ = fit(piece.trainer, make(tmp_path), tmp_path, epochs=2)
        path, _ = fit(piece.trainer, make(tmp_path), tmp_path, epochs=3, resume=path)
        ends.append(torch.load(path, weights_only=True))
    for part in ("global_step", "state_dict", "optimizer_states"):
        assert same(ends[0][part], ends[1][part]), part


class Watching(pl.Callback):
    """Notes a callback's state as the first step begins."""

    def __init__(self, watched: Any) -> None:
        self.watched, self.states = watched, []

    def on_train_batch_start(self, *_: Any) -> None:
        self.states.append(deepcopy(self.watched.state_dict()))


def fit(
    settings: Mapping[str, Any], made: Any, folder: Path, *more: Any, epochs: int,
    resume: str | None = None,
) -> tuple[str, Any]:  # fmt: skip
    """Run and save; the path, and the state that was saved."""
    pl.seed_everything(0, verbose=False)
    put = {**settings, **placed([*more, made])}
    trainer = pl.Trainer(**{**QUIET, "default_root_dir": folder, **put, "max_epochs": epochs})
    trainer.fit(Plain(), Data(), ckpt_path=resume, weights_only=True)
    state = deepcopy(made.state_dict()) if isinstance(made, pl.Callback) else None
    trainer.save_checkpoint(folder / "saved.ckpt")
    trainer.strategy.checkpoint_io.teardown()  # what is saved in the background is there then
    return str(folder / "saved.ckpt"), state


def same(one: Any, other: Any) -> bool:
    """Equal all the way down, NaN with NaN."""
    if isinstance(one, torch.Tensor):
        alike = (one == other) | ((one != one) & (other != other))
        return one.dtype == other.dtype and one.shape == other.shape and bool(alike.all())
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, Sequence) and not isinstance(one, str):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other or (one != one and other != other))
