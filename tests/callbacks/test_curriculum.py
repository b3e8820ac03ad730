"""CurriculumAdvance in real few-step runs: what is mastered is left behind, and stays so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_arrcoc.callbacks.curriculum import CurriculumAdvance

ROWS = 4  # of each stage, unless a test says otherwise; two a batch


class Stages:
    """Yields the index of its stage, so that a batch tells where it comes from."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.stages = list(lengths)
        self.stage = 0

    def __len__(self) -> int:
        return self.stages[self.stage]

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor([float(self.stage)])


class Feeder(pl.LightningDataModule):
    def __init__(self, train: Any) -> None:
        super().__init__()
        self.train = train

    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(self.train, batch_size=2)


class Learner(pl.LightningModule):
    """Logs a given accuracy in each epoch and remembers which stage its batches came from."""

    def __init__(self, accuracies: Sequence[float], name: str = "train/accuracy") -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.accuracies, self.name = accuracies, name
        self.stages: list[list[int]] = []

    def on_train_epoch_start(self) -> None:
        self.stages.append([])

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.stages[-1] += [int(row) for row in batch]
        self.log(self.name, self.accuracies[self.current_epoch], on_step=False, on_epoch=True)
        return self.layer(batch).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    @property
    def seen(self) -> list[int]:
        """The stage of each epoch."""
        assert all(len(set(stages)) == 1 for stages in self.stages)
        return [stages[0] for stages in self.stages]


def trainer(folder: Path, epochs: int, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    settings = {
        "max_epochs": epochs,
        "reload_dataloaders_every_n_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": list(callbacks),
        "default_root_dir": folder,
    }
    return pl.Trainer(**(settings | options))


@pytest.mark.parametrize(
    ("accuracies", "seen"),
    [
        ([0.5, 0.95, 0.5, 0.95, 0.5], [0, 0, 1, 1, 2]),
        ([0.5, 0.6, 0.7], [0, 0, 0]),
        ([1.0, 1.0, 1.0, 1.0, 1.0], [0, 1, 2, 2, 2]),  # there is nothing behind the last
        ([float("nan"), 1.0, 0.0], [0, 0, 1]),
    ],
)
def test_the_next_epoch_trains_on_the_next_stage_once_the_metric_passes(
    accuracies: list[float], seen: list[int], tmp_path: Path
) -> None:
    module, source = Learner(accuracies), Stages([ROWS] * 3)
    trainer(tmp_path, len(accuracies), CurriculumAdvance()).fit(module, Feeder(source))
    assert module.seen == seen
    assert source.stage < len(source.stages)


def test_reaching_the_threshold_is_not_passing_it(tmp_path: Path) -> None:
    module = Learner([0.5, 0.5, 0.75, 0.0])  # exact in binary
    callback = CurriculumAdvance(threshold=0.5)
    trainer(tmp_path, 4, callback).fit(module, Feeder(Stages([ROWS] * 3)))
    assert module.seen == [0, 0, 0, 1]


def test_a_longer_stage_is_trained_on_as_a_whole(tmp_path: Path) -> None:
    module = Learner([1.0, 1.0, 1.0])
    trainer(tmp_path, 3, CurriculumAdvance()).fit(module, Feeder(Stages([4, 8, 2])))
    assert [len(stages) for stages in module.stages] == [4, 8, 2]


def test_metric_and_threshold_can_be_chosen(tmp_path: Path) -> None:
    module = Learner([0.5, 0.5], name="train/exact")
    callback = CurriculumAdvance("train/exact", threshold=0.4)
    trainer(tmp_path, 2, callback).fit(module, Feeder(Stages([ROWS] * 3)))
    assert module.seen == [0, 1]


def test_the_stage_that_an_epoch_was_trained_on_is_logged(tmp_path: Path) -> None:
    module, logger = Learner([1.0, 0.0, 1.0, 1.0]), CSVLogger(tmp_path, name="", version="csv")
    trainer(tmp_path, 4, CurriculumAdvance(), logger=logger).fit(module, Feeder(Stages([ROWS] * 3)))
    rows = (tmp_path / "csv" / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("curriculum/stage")
    assert [float(row.split(",")[column]) for row in rows[1:]] == [0.0, 1.0, 1.0, 2.0]
    assert module.seen == [0, 1, 1, 2]


def saving(folder: Path, epochs: int) -> pl.Trainer:
    return trainer(folder, epochs, CurriculumAdvance(), ModelCheckpoint(folder, save_last=True))


def test_a_resumed_run_goes_on_at_its_stage(tmp_path: Path) -> None:
    """The checkpoint is written after the last epoch's advance, and read with weights_only."""
    first = Learner([1.0, 0.0, 1.0])
    saving(tmp_path, 3).fit(first, Feeder(Stages([ROWS] * 4)))
    assert first.seen == [0, 1, 1]

    second, source = Learner([9.9, 9.9, 9.9, 0.0, 1.0, 0.0]), Stages([ROWS] * 4)
    saving(tmp_path, 6).fit(
        second, Feeder(source), ckpt_path=tmp_path / "last.ckpt", weights_only=True
    )
    assert second.seen == [2, 2, 3]
    assert source.stage == 3


def test_a_resumed_run_draws_as_many_samples_as_its_stage_has(tmp_path: Path) -> None:
    saving(tmp_path, 1).fit(Learner([1.0]), Feeder(Stages([4, 8])))
    module = Learner([9.9, 0.0, 0.0])
    saving(tmp_path, 3).fit(
        module, Feeder(Stages([4, 8])), ckpt_path=tmp_path / "last.ckpt", weights_only=True
    )
    assert [len(stages) for stages in module.stages] == [8, 8]


def test_one_callback_serves_two_runs(tmp_path: Path) -> None:
    """A second run goes on where the first stopped, also on a source of its own."""
    callback = CurriculumAdvance()
    for seen in ([0, 1], [2, 3]):
        module = Learner([1.0, 1.0])
        trainer(tmp_path, 2, callback).fit(module, Feeder(Stages([ROWS] * 9)))
        assert module.seen == seen


def test_its_state_survives_a_round_trip_as_plain_numbers() -> None:
    callback, other = CurriculumAdvance(), CurriculumAdvance()
    callback.load_state_dict({"stage": 3, "unjudged": True})
    other.load_state_dict(callback.state_dict())
    assert other.state_dict() == {"stage": 3, "unjudged": True}
    assert [type(value) for value in other.state_dict().values()] == [int, bool]


def test_two_that_monitor_different_metrics_keep_their_states_apart() -> None:
    """Another threshold is another opinion on the same state."""
    keys = {
        CurriculumAdvance(monitor, threshold).state_key
        for monitor in ("a", "b")
        for threshold in (0.5, 0.9)
    }
    assert len(keys) == 2


def test_a_trainer_that_keeps_its_loaders_is_refused(tmp_path: Path) -> None:
    keeping = trainer(tmp_path, 1, CurriculumAdvance(), reload_dataloaders_every_n_epochs=0)
    with pytest.raises(MisconfigurationException, match="reload_dataloaders_every_n_epochs=1"):
        keeping.fit(Learner([1.0]), Feeder(Stages([ROWS])))


@pytest.mark.parametrize("train", [[torch.zeros(1)] * 4, None])
def test_a_source_without_stages_is_refused(train: Any, tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match=f"stages; got {type(train).__name__}"):
        trainer(tmp_path, 1, CurriculumAdvance()).fit(Learner([1.0]), Feeder(train))


def test_a_loader_without_a_data_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="needs a data module"):
        trainer(tmp_path, 1, CurriculumAdvance()).fit(
            Learner([1.0]), DataLoader(Stages([ROWS]), batch_size=2)
        )


def test_a_metric_that_nobody_logs_is_refused_with_those_that_are(tmp_path: Path) -> None:
    wrong = trainer(tmp_path, 1, CurriculumAdvance("train/acuracy"))
    with pytest.raises(
        MisconfigurationException, match=r"'train/acuracy'.*Nearest: monitor='train/accuracy'"
    ):
        wrong.fit(Learner([1.0]), Feeder(Stages([ROWS])))


def test_each_stage_may_have_its_own_threshold(tmp_path: Path) -> None:
    module = Learner([0.6, 0.6, 0.6, 0.95, 0.0])
    source = Stages([ROWS] * 3)
    trainer(tmp_path, 5, CurriculumAdvance(threshold=(0.5, 0.9))).fit(module, Feeder(source))
    assert module.seen == [0, 1, 1, 1, 2]


def test_as_many_thresholds_as_steps_are_expected(tmp_path: Path) -> None:
    callback = CurriculumAdvance(threshold=[0.5])
    with pytest.raises(MisconfigurationException, match="1 thresholds for 3 stages; expected 2"):
        trainer(tmp_path, 1, callback).fit(Learner([1.0]), Feeder(Stages([ROWS] * 3)))


@pytest.mark.parametrize("threshold", ["0.9", True, None, [0.5, "x"], [float("nan")], float("nan")])
def test_a_threshold_that_is_no_number_is_refused(threshold: Any) -> None:
    with pytest.raises(ValueError, match="threshold="):
        CurriculumAdvance(threshold=threshold)


def test_a_stage_that_is_no_longer_there_is_refused(tmp_path: Path) -> None:
    callback = CurriculumAdvance()
    callback.load_state_dict({"stage": 2})
    with pytest.raises(MisconfigurationException, match="at stage 2, but there are 2 stages"):
        trainer(tmp_path, 1, callback).fit(Learner([1.0]), Feeder(Stages([ROWS] * 2)))


def test_the_stage_is_set_before_workers_are_made(tmp_path: Path) -> None:
    class Workers(Feeder):
        def train_dataloader(self) -> Any:
            seen.append(self.train.stage)
            return super().train_dataloader()

    seen: list[int] = []
    callback = CurriculumAdvance()
    callback.load_state_dict({"stage": 1})
    trainer(tmp_path, 1, callback).fit(Learner([0.0]), Workers(Stages([ROWS] * 3)))
    assert seen == [1]
