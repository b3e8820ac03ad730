"""What comes next depends on seed, epoch and place alone, wherever a run was interrupted."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import Checkpoint
from torch.utils.data import DataLoader, DistributedSampler

from lightning_arrcoc.data.datamodule import VqaDataModule
from lightning_arrcoc.data.order import Draw, Drawn, EpochOrder, Place
from lightning_arrcoc.data.sample import Sample, Turn
from lightning_arrcoc.resume import settle_loops


class Numbers:
    """Each sample answers with its index."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        return Sample((), (Turn("?", str(index)),))


class Dice:
    """Each sample answers with what three generators draw for it."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Sample:
        drawn = random.random(), np.random.rand(), torch.rand(()).item()
        return Sample((), (Turn("?", f"{index}: {drawn}"),))


START = Place(0)


def order(length: int = 10, place: Place = START, **given: Any) -> list[int]:
    options = {"batch_size": 2, "seed": 0} | given
    return [draw.sample for draw in EpochOrder(range(length), lambda: place, **options)]


# ----------------------------------------------------------------------------------------- order


def test_an_epoch_takes_every_sample_once_in_an_order_of_its_own() -> None:
    first, second = order(100), order(100, Place(1))
    assert sorted(first) == sorted(second) == list(range(100))
    assert first != second
    assert first != list(range(100))
    assert order(100, seed=1) not in (first, second)
    assert order(100, Place(1)) == second, "whatever was taken in between"


def test_epochs_of_neighbouring_seeds_do_not_repeat_each_other() -> None:
    """As they do where seed and epoch are added up."""
    assert order(100, Place(1), seed=0) != order(100, Place(0), seed=1)


def test_an_epoch_goes_on_where_it_stopped_and_ends_where_it_is_cut() -> None:
    whole = order(11)
    assert order(11, Place(0, batch=2)) == whole[4:]
    assert order(11, Place(0, batch=1, stop=3)) == whole[2:6]
    assert order(11, Place(0, batch=3, stop=3)) == []


def test_every_sample_is_told_its_epoch() -> None:
    draws = list(EpochOrder(range(3), lambda: Place(7), batch_size=1, seed=0))
    assert {draw.epoch for draw in draws} == {7}


@settings(deadline=None)
@given(length=st.integers(1, 30), processes=st.integers(1, 7), batch=st.integers(0, 4))
def test_processes_share_an_epoch_as_torch_shares_it(
    length: int, processes: int, batch: int
) -> None:
    def shares(first: int) -> list[list[int]]:
        place = Place(3, batch=first)
        return [
            order(length, place, num_replicas=processes, rank=rank) for rank in range(processes)
        ]

    whole = order(length, Place(3))
    for rank, share in enumerate(shares(0)):
        theirs = DistributedSampler(range(length), processes, rank, shuffle=False)  # type: ignore[arg-type]
        assert share == [whole[place] for place in theirs]
        assert len(share) == len(theirs)
    assert shares(batch) == [share[2 * batch :] for share in shares(0)]


# ------------------------------------------------------------------------------------ randomness


def test_what_a_source_draws_at_random_depends_on_seed_epoch_and_index() -> None:
    drawn = Drawn(Dice(), seed=0)
    first = [drawn[Draw(i, 0)] for i in range(4)]
    assert len({sample.turns for sample in first}) == 4
    random.random(), np.random.rand(), torch.rand(())
    assert [drawn[Draw(i, 0)] for i in reversed(range(4))] == first[::-1]
    assert drawn[0] == first[0], "a loader that keeps the order knows no epoch"
    assert drawn[Draw(0, 1)] != first[0]
    assert Drawn(Dice(), seed=1)[0] != first[0]


def test_the_generators_of_the_process_are_left_alone() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    def seeded() -> None:
        random.seed(0), np.random.seed(0), torch.manual_seed(0)

    seeded()
    expected = draw()
    seeded()
    list(module(Dice()).train_dataloader())
    assert draw() == expected


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_draw_what_the_process_itself_would(workers: int) -> None:
    def epochs(num_workers: int) -> list[list[str]]:
        loader = module(Dice(), num_workers=num_workers).train_dataloader()
        return [[answer for batch in loader for answer in batch["answers"]] for _ in range(2)]

    alone = epochs(0)
    assert epochs(workers) == alone
    assert alone[0] != alone[1]


# --------------------------------------------------------------- interrupted runs, whatever moment


def encode(conversations: list[Any], **_: Any) -> dict[str, Any]:
    return {"x": torch.zeros(len(conversations), 1)}


def module(train: Any, **given: Any) -> VqaDataModule:
    options = {"batch_size": 2, "num_workers": 0, "processor": encode, "seed": 3} | given
    return VqaDataModule(train, Numbers(2), **options)


class Learner(pl.LightningModule):
    """Notes its batches, and in between where epochs end."""

    def __init__(self, settles: bool = True) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.settles = settles
        self.seen: list[str] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.seen.append(f"{self.current_epoch}.{batch_idx}: {' '.join(batch['answers'])}")
        return self.layer(batch["inputs"]["x"]).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def on_train_epoch_end(self) -> None:
        self.seen.append(f"{self.current_epoch} ends")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.settles:
            settle_loops(checkpoint, by_steps=self.trainer.max_steps != -1)


class Moment(NamedTuple):
    """A checkpoint, and what had been seen when it was written."""

    where: str
    checkpoint: dict[str, Any]
    seen: list[str]


class EveryMoment(Checkpoint):
    """Keeps a checkpoint of every moment at which Lightning's ModelCheckpoint may write one."""

    def __init__(self) -> None:
        self.moments: list[Moment] = []

    def keep(self, trainer: pl.Trainer, learner: Any, where: str, folder: Path) -> None:
        trainer.save_checkpoint(folder / "now.ckpt")
        saved = torch.load(folder / "now.ckpt", weights_only=True)
        self.moments.append(Moment(where, saved, list(learner.seen)))

    def on_train_batch_end(self, trainer: Any, learner: Any, *_: Any) -> None:
        self.keep(trainer, learner, "batch", Path(trainer.default_root_dir))

    def on_validation_end(self, trainer: Any, learner: Any) -> None:
        self.keep(trainer, learner, "validation", Path(trainer.default_root_dir))

    def on_train_epoch_end(self, trainer: Any, learner: Any) -> None:
        self.keep(trainer, learner, "epoch", Path(trainer.default_root_dir))


class Ran(NamedTuple):
    seen: list[str]
    moments: list[Moment]
    end: dict[str, Any]


def fit(
    folder: Path,
    moment: Moment | None = None,
    *,
    settles: bool = True,
    data: pl.LightningDataModule | None = None,
    **options: Any,
) -> Ran:
    learner, every = Learner(settles), EveryMoment()
    usual = {
        "max_steps": 9, "max_epochs": -1, "limit_val_batches": 0, "num_sanity_val_steps": 0,
        "accelerator": "cpu", "logger": False, "enable_progress_bar": False,
        "enable_model_summary": False, "default_root_dir": folder, "callbacks": [every],
    }  # fmt: skip
    trainer = pl.Trainer(**(usual | options))
    path = None
    if moment is not None:
        path = folder / "then.ckpt"
        torch.save(copy.deepcopy(moment.checkpoint), path)
    trainer.fit(learner, data or module(Numbers(8)), ckpt_path=path, weights_only=True)
    trainer.save_checkpoint(folder / "end.ckpt")
    return Ran(learner.seen, every.moments, torch.load(folder / "end.ckpt", weights_only=True))


def batches(seen: list[str]) -> list[str]:
    return [line for line in seen if ":" in line]


VALIDATING = {"limit_val_batches": 1, "check_val_every_n_epoch": None}
RUNS = {
    "steps": {},
    "validated within": VALIDATING | {"val_check_interval": 3},
    "validated at the end": VALIDATING | {"val_check_interval": 4},
    "cut short": {"limit_train_batches": 3},
    "cut short and validated": VALIDATING | {"limit_train_batches": 3, "val_check_interval": 3},
    "loaders renewed": {"limit_train_batches": 3, "reload_dataloaders_every_n_epochs": 1},
    "epochs": {"max_steps": -1, "max_epochs": 3},
    "epochs validated": {"max_steps": -1, "max_epochs": 3, "limit_val_batches": 1},
    "accumulating": {"max_steps": 5, "accumulate_grad_batches": 2},
}


@pytest.fixture(params=RUNS, ids=lambda name: name.replace(" ", "_"))
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return RUNS[request.param]


def test_a_run_goes_on_with_the_very_next_batch_from_any_moment(
    options: dict[str, Any], tmp_path: Path
) -> None:
    """And from any moment of a run that was resumed itself."""
    whole = fit(tmp_path, **options)
    assert {line.split(".")[0] for line in batches(whole.seen)} >= {"0", "1", "2"}
    for place, moment in enumerate(whole.moments):
        resumed = fit(tmp_path, moment, **options)
        before = batches(moment.seen)
        assert before + batches(resumed.seen) == batches(whole.seen), moment.where
        for again in resumed.moments[place % 3 :: 3]:
            twice = fit(tmp_path, again, **options)
            assert before + batches(again.seen + twice.seen) == batches(whole.seen), again.where


@pytest.mark.parametrize("renewed", [0, 1])
def test_workers_start_where_the_run_stands(renewed: int, tmp_path: Path) -> None:
    """Lightning asks for iterators before it knows."""

    def data() -> VqaDataModule:
        return module(Numbers(8), num_workers=1)

    options = {"limit_train_batches": 3, "reload_dataloaders_every_n_epochs": renewed}
    whole = fit(tmp_path, **options)
    assert fit(tmp_path, data=data(), **options).seen == whole.seen
    for moment in whole.moments[1:6:2]:
        resumed = fit(tmp_path, moment, data=data(), **options)
        assert batches(moment.seen + resumed.seen) == batches(whole.seen), moment.where


def test_a_run_that_was_done_may_be_made_longer(tmp_path: Path) -> None:
    """It was cut short within an epoch, and goes on within it."""
    whole, short = fit(tmp_path), fit(tmp_path, max_steps=6)
    saved = Moment("end", short.end, short.seen)
    assert short.seen[-1] == "1 ends"
    assert batches(short.seen + fit(tmp_path, saved).seen) == batches(whole.seen)


class Noting(Learner):
    """Writes its batches where the process that started it can read them."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        note = Path(self.trainer.default_root_dir) / f"{self.global_rank}.txt"
        with note.open("a") as file:
            file.write(f"{self.seen[-1]}\n")
        return loss


def together(folder: Path, steps: int, checkpoint: Path | None = None) -> list[list[str]]:
    """What each of two processes takes in so many steps."""
    folder.mkdir()
    trainer = pl.Trainer(
        max_steps=steps, max_epochs=-1, devices=2, strategy="ddp_fork", limit_val_batches=0,
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, callbacks=[Saving()],
    )  # fmt: skip
    trainer.fit(Noting(), module(Numbers(15)), ckpt_path=checkpoint, weights_only=True)
    return [(folder / f"{rank}.txt").read_text().splitlines() for rank in (0, 1)]


class Saving(pl.Callback):
    def on_train_end(self, trainer: pl.Trainer, learner: Any) -> None:
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "end.ckpt")


def test_two_processes_share_the_samples_and_both_go_on_with_the_next(tmp_path: Path) -> None:
    """Fifteen samples are eight for each, of which one is taken twice."""
    whole = together(tmp_path / "whole", 10)
    for epoch in range(2):
        lines = [line for share in whole for line in share if line.startswith(f"{epoch}.")]
        taken = [int(word) for line in lines for word in line.split(": ")[1].split()]
        assert len(taken) == 16
        assert set(taken) == set(range(15))
    first = together(tmp_path / "first", 6)
    rest = together(tmp_path / "rest", 10, tmp_path / "first" / "end.ckpt")
    assert [a + b for a, b in zip(first, rest, strict=True)] == whole


def test_an_epoch_interrupted_behind_its_last_batch_is_ended(tmp_path: Path) -> None:
    whole = fit(tmp_path)
    (last, *_) = [m for m in whole.moments if m.seen[-1].startswith("0.3")]
    assert last.where == "batch"
    assert last.seen + fit(tmp_path, last).seen == whole.seen
    assert "0 ends" not in fit(tmp_path, last, settles=False).seen, "Lightning alone does not"


class Plain(VqaDataModule):
    """Loads as anybody would."""

    def train_dataloader(self) -> DataLoader[Any]:
        collate = super().train_dataloader().collate_fn
        return DataLoader(self.train, 2, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
def test_a_plain_loader_does_not(tmp_path: Path) -> None:
    """Negative control: the test above would notice."""

    def plain() -> Plain:
        torch.manual_seed(0)
        return Plain(Numbers(8), Numbers(2), batch_size=2, num_workers=0, processor=encode)

    whole = fit(tmp_path, data=plain())
    within = next(m for m in whole.moments if len(m.seen) == 2)
    resumed = fit(tmp_path, within, data=plain())
    assert batches(within.seen + resumed.seen) != batches(whole.seen)


def test_a_resumed_run_keeps_its_seed(tmp_path: Path) -> None:
    whole = fit(tmp_path)
    within = next(m for m in whole.moments if len(m.seen) == 2)
    resumed = fit(tmp_path, within, data=module(Numbers(8), seed=4))
    assert within.seen + resumed.seen == whole.seen
    assert fit(tmp_path, data=module(Numbers(8), seed=4)).seen != whole.seen


def test_a_run_resumed_with_other_batches_is_told(tmp_path: Path) -> None:
    within = next(m for m in fit(tmp_path).moments if len(m.seen) == 2)
    with pytest.warns(UserWarning, match=r"made with batch_size=2 .* this run has batch_size=4"):
        fit(tmp_path, within, data=module(Numbers(8), batch_size=4))


def test_a_second_run_begins_anew(tmp_path: Path) -> None:
    data = module(Numbers(8))
    assert fit(tmp_path, data=data).seen == fit(tmp_path, data=data).seen


def test_overfitting_on_a_few_batches_takes_the_same_ones_again(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="requested to overfit"):
        seen = batches(fit(tmp_path, overfit_batches=2, max_steps=4).seen)
    assert [line.split(": ")[1] for line in seen] == ["0 1", "2 3"] * 2
