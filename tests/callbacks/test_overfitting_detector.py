"""OverfittingDetector on curves that were recorded from real training, and on made-up ones."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_arrcoc.callbacks import OverfittingDetector
from lightning_arrcoc.callbacks.overfitting_signs import (
    Apart,
    Diverging,
    Evaluation,
    Sign,
    Stuck,
    Worsening,
)
from lightning_arrcoc.events import Event

CURVES = json.loads(Path(__file__).with_name("curves.json").read_text())


class Replay(pl.LightningModule):
    """Has the losses that it is told, epoch by epoch; two batches an epoch."""

    def __init__(
        self, train: Sequence[float], val: Sequence[float | None], name: str = "val/loss"
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.train_losses, self.val_losses, self.name = train, val, name
        self.evaluations = 0

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        apart = 0.5 if batch_idx else -0.5
        return self.weight * 0 + self.train_losses[self.current_epoch] + apart

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        if self.trainer.sanity_checking:
            self.log(self.name, 1e-9)
            return
        found = self.val_losses[self.evaluations]
        self.evaluations += 1
        if found is not None:
            self.log(self.name, found)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(torch.zeros(2, 1))  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(torch.zeros(1, 1))  # type: ignore[arg-type]


class Told(pl.Callback):
    def __init__(self) -> None:
        self.events: list[Event] = []

    def on_event(self, event: Event) -> None:
        self.events.append(event)


def trainer(*callbacks: pl.Callback, epochs: int, **options: Any) -> pl.Trainer:
    usual: dict[str, Any] = {
        "logger": False, "enable_checkpointing": False, "num_sanity_val_steps": 0,
    }  # fmt: skip
    return pl.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks), **(usual | options),
    )  # fmt: skip


def replay(
    detector: OverfittingDetector, val: Sequence[float | None], train: float = 1.0, **options: Any
) -> pl.Trainer:
    """A run with these validation losses, and a training loss that stays."""
    run = trainer(detector, epochs=len(val), **options)
    run.fit(Replay([train] * len(val), val))
    return run


def logged(folder: Path) -> list[dict[str, str]]:
    with (folder / "lightning_logs" / "version_0" / "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["overfit/signs"]]


def flags(sign: Sign, *found: Evaluation) -> list[bool]:
    raised = []
    for one in found:
        sign.update(one)
        raised.append(sign.raised)
    return raised


def scores(*values: float) -> list[Evaluation]:
    return [Evaluation(value) for value in values]


# ------------------------------------------------------------------------------- recorded curves


@pytest.mark.filterwarnings("ignore:OverfittingDetector")
@pytest.mark.parametrize(
    ("curve", "raised_first", "stopped"),
    [  # epochs, from 0
        ("overfitting", {"diverging": 14, "stuck": 21, "apart": 26}, 21),
        ("noisy but healthy", {"stuck": 31}, None),
        # Nobody can know at the first rise that a second descent is to come.
        ("double descent", {"diverging": 7, "apart": 14, "worsening": 17, "stuck": 19}, 15),
        ("plateau", {"diverging": 8, "worsening": 26, "stuck": 28}, None),
        ("collapse", {"worsening": 10, "stuck": 12, "apart": 14}, 14),
    ],
)
def test_what_it_flags_in_recorded_curves(
    curve: str, raised_first: dict[str, int], stopped: int | None
) -> None:
    losses = CURVES[curve]
    told = Told()
    run = trainer(OverfittingDetector(), told, epochs=len(losses["train_loss"]))
    run.fit(Replay(losses["train_loss"], losses["val_loss"]))
    signs = {e.fields["sign"]: e.epoch for e in told.events if e.name == "overfit/sign"}
    assert signs == raised_first
    detector = OverfittingDetector(policy="stop")
    run = trainer(detector, epochs=len(losses["train_loss"]))
    run.fit(Replay(losses["train_loss"], losses["val_loss"]))
    assert (detector.verdict or {}).get("epoch") == stopped
    assert run.current_epoch == (len(losses["train_loss"]) if stopped is None else stopped + 1)


# ----------------------------------------------------------------------------------------- signs


def test_worse_than_the_time_before_several_times_in_a_row() -> None:
    found = scores(3, 2, 2.1, 2.2, 2.2, 2.3, 2.4, 2.5, 1)
    assert flags(Worsening(3), *found) == [False] * 7 + [True, False]


def test_a_score_that_is_nan_is_worse_and_what_follows_is_compared_with_the_last_number() -> None:
    assert flags(Worsening(2), *scores(1, math.nan, 0.9, math.nan, 1.1)) == [False] * 4 + [True]


def test_a_validation_loss_far_above_the_training_loss() -> None:
    found = [Evaluation(0, val, train) for val, train in ((2, 1), (2.1, 1), (2.1, 2), (1, 0))]
    found += [Evaluation(0, math.nan, 1), Evaluation(0, 1, math.nan), Evaluation(0, 1, -1)]
    assert flags(Apart(2.0), *found) == [False, True] + [False] * 5


def test_a_gap_that_grows_steadily_and_not_one_that_jumps_about_or_hardly_grows() -> None:
    def over(*gaps: float) -> bool:
        return flags(Diverging(0.2, 5), *(Evaluation(0, 1 + gap, 1) for gap in gaps))[-1]

    assert over(0, 0.1, 0.2, 0.31, 0.4)
    assert not over(0, 0.1, 0.2, 0.31), "the window is not full"
    assert not over(0, 0.02, 0.04, 0.06, 0.08), "it does not matter"
    assert not over(0, 0.9, -0.4, 0.8, 0.3), "it may be chance"
    assert not over(-0.9, -0.8, -0.7, -0.6, -0.5), "validation is still better"
    assert not over(0.4, 0.3, 0.2, 0.1, 0)
    assert over(9, 9, 9, 0, 0.1, 0.2, 0.31, 0.4), "what is outside the window does not count"


def test_no_improvement_for_a_while() -> None:
    found = scores(1, 0.95, 0.89, 0.85, math.nan, 0.85, 0.5)
    assert flags(Stuck(2, 0.1), *found) == [False, False, False, False, True, True, False]
    assert flags(Stuck(1), *scores(math.nan, 1, 1)) == [True, False, True]


# ---------------------------------------------------------------------------- what it does to a run


def test_each_sign_warns_once_with_numbers_and_what_to_try() -> None:
    with pytest.warns(UserWarning, match="OverfittingDetector") as warned:
        replay(OverfittingDetector(), [1.0, 2.5, 2.6, 2.7, 2.8, 2.9, 3.0])
    texts = [str(w.message) for w in warned if "OverfittingDetector" in str(w.message)]
    assert [text.partition(": ")[2][:40] for text in texts] == [
        "the validation loss is 2.50 times the tr", "worse than the time before, 3 times in a",
        "no improvement for 5 evaluations (step 1",
    ]  # fmt: skip
    for text in texts:
        assert "Best: 1 at step 2, epoch 0. What to try: " in text


@pytest.mark.filterwarnings("ignore:OverfittingDetector")
@pytest.mark.parametrize(("when", "epoch"), [("any", 1), (2, 3), (3, 5), ("all", None)])
def test_so_many_signs_end_a_run(when: Any, epoch: int | None) -> None:
    detector = OverfittingDetector(policy="stop", when=when)
    run = replay(detector, [1.0, 2.5, 2.6, 2.7, 2.8, 2.9, 3.0])
    assert (detector.verdict or {}).get("epoch") == epoch
    assert run.current_epoch == (7 if epoch is None else epoch + 1)


@pytest.mark.filterwarnings("ignore:OverfittingDetector")
def test_by_itself_it_changes_nothing() -> None:
    detector = OverfittingDetector()
    assert replay(detector, [1.0, 9, 10, 11, 12, 13, 14, 15]).current_epoch == 8
    assert detector.verdict is None


@pytest.mark.filterwarnings("ignore:OverfittingDetector")
def test_every_sign_logs_its_state_at_every_evaluation(tmp_path: Path) -> None:
    losses = [1.0, 2.5, 2.6, 2.7]
    replay(OverfittingDetector(gap_window=4), losses, logger=CSVLogger(tmp_path))
    rows = logged(tmp_path)
    assert float(rows[-1]["overfit/worse_in_a_row"]) == 3
    assert float(rows[-1]["overfit/signs"]) == 2
    assert float(rows[-1]["overfit/val_to_train"]) == pytest.approx(2.7)
    assert float(rows[-1]["overfit/gap_growth"]) == pytest.approx(1.56 / 2.2)
    assert float(rows[-1]["overfit/without_improvement"]) == 3
    assert [row["step"] for row in rows] == ["2", "4", "6", "8"]


@pytest.mark.filterwarnings("ignore:OverfittingDetector")
def test_the_verdict_is_in_the_checkpoint_in_plain_types_and_names_the_best_one(
    tmp_path: Path,
) -> None:
    saved = ModelCheckpoint(tmp_path, monitor="val/loss")
    detector, told = OverfittingDetector(policy="stop"), Told()
    run = trainer(detector, saved, told, epochs=9, enable_checkpointing=True)
    run.fit(Replay([1.0] * 9, [3.0, 1.0, 2.5, 2.6, 2.7, 2.8, 2.9, 3.0, 3.1]))
    state = torch.load(tmp_path / "overfit-step=10.ckpt", weights_only=True)["callbacks"]
    (ours,) = (value for key, value in state.items() if "OverfittingDetector" in key)
    best = {"value": 1.0, "step": 4, "epoch": 1}
    assert ours["best"] == best
    assert ours["verdict"] == detector.verdict == {
        "step": 10, "epoch": 4, "best": best, "checkpoint": saved.best_model_path,
        "reasons": {
            "worsening": "worse than the time before, 3 times in a row",
            "apart": "the validation loss is 2.70 times the training loss",
        },
    }  # fmt: skip
    assert torch.load(saved.best_model_path, weights_only=True)["global_step"] == 4
    (stopped,) = (e for e in told.events if e.name == "overfit/stopped")
    assert stopped.fields == detector.verdict
    assert [e.fields["epoch"] for e in told.events if e.name == "overfit/best"] == [0, 1]


@pytest.mark.filterwarnings("ignore:OverfittingDetector")
@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5, 6])
def test_a_run_resumed_within_its_patience_ends_at_the_same_evaluation(
    tmp_path: Path, cut: int
) -> None:
    train = [1 - 0.05 * epoch for epoch in range(12)]
    val = [1.5, 1.0, 1.05, 1.02, 1.1, 1.15, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7]

    def detector() -> OverfittingDetector:
        return OverfittingDetector(policy="stop", when=3, gap_window=5, patience=4)

    whole = detector()
    trainer(whole, epochs=12).fit(Replay(train, val))
    assert whole.verdict is not None
    first = detector()
    run = trainer(first, epochs=cut)
    run.fit(Replay(train, val))
    run.save_checkpoint(tmp_path / "cut.ckpt")
    second = detector()
    model = Replay(train, val)
    model.evaluations = cut
    trainer(second, epochs=12).fit(model, ckpt_path=tmp_path / "cut.ckpt")
    assert second.verdict == whole.verdict


def test_the_training_loss_since_the_last_evaluation_goes_on_with_a_resumed_run() -> None:
    detector = OverfittingDetector()
    detector._loss, detector._losses = torch.tensor(6.0), 3
    other = OverfittingDetector()
    other.load_state_dict(json.loads(json.dumps(detector.state_dict())))
    assert (float(other._loss or 0), other._losses) == (6.0, 3)


# --------------------------------------------------------------------------------- what is judged


def test_a_sanity_check_and_a_validation_of_its_own_are_not_judged() -> None:
    detector = OverfittingDetector()
    run = replay(detector, [2.0, 1.9, 1.8], train=1.0, num_sanity_val_steps=1)
    assert detector.best is not None
    assert detector.best.value == pytest.approx(1.8)
    model = Replay([], [1e-9])
    run.validate(model, verbose=False)
    assert detector.best.value == pytest.approx(1.8)


@pytest.mark.filterwarnings("ignore:OverfittingDetector")
@pytest.mark.parametrize(
    ("options", "ended"),
    [({"check_val_every_n_epoch": 2}, 8), ({"val_check_interval": 1, "limit_train_batches": 2}, 2)],
)
def test_evaluations_are_counted_and_not_epochs(options: dict[str, Any], ended: int) -> None:
    detector = OverfittingDetector(policy="stop", when=1, ratio=None, patience=3)
    run = trainer(detector, epochs=12, **options)
    run.fit(Replay([1.0] * 12, [1.0] * 24))
    assert run.current_epoch == ended


def test_a_metric_that_is_missing_for_an_epoch_is_waited_for() -> None:
    detector = OverfittingDetector(patience=2, policy="stop", when="any")
    with pytest.warns(UserWarning, match="no validation loss was found at this evaluation"):
        run = replay(detector, [None, 1.0, None, None, 0.9, 0.8])
    assert run.current_epoch == 6


def test_a_name_that_is_not_logged_is_answered_with_the_nearest() -> None:
    with pytest.warns(UserWarning, match=r"Nearest: monitor='val/loss'\. There are: val/loss"):
        replay(OverfittingDetector("val/los"), [1.0])


@pytest.mark.filterwarnings("ignore:OverfittingDetector")
def test_nan_is_never_the_best() -> None:
    detector = OverfittingDetector(patience=2, when="any", policy="stop")
    replay(detector, [math.nan, 1.0, math.nan, math.nan, 1.0])
    assert detector.best is not None
    assert detector.best[:2] == (1.0, 4)
    assert detector.verdict is not None
    assert detector.verdict["epoch"] == 3


@pytest.mark.parametrize("name", ["val/loss", "val_loss", "valid_loss", "my/validation_loss_epoch"])
def test_the_validation_loss_is_found_by_itself(name: str) -> None:
    detector = OverfittingDetector()
    run = trainer(detector, epochs=1)
    run.fit(Replay([1.0], [0.7], name))
    assert detector.best is not None
    assert detector.best.value == pytest.approx(0.7)


@pytest.mark.filterwarnings("ignore:OverfittingDetector")
def test_a_metric_to_be_maximised() -> None:
    detector = OverfittingDetector(
        "val/accuracy", "max", worse=2, patience=None, ratio=None, gap=None, when=1, policy="stop"
    )
    run = trainer(detector, epochs=6)
    run.fit(Replay([1.0] * 6, [0.5, 0.7, 0.9, 0.8, 0.6, 0.5], "val/accuracy"))
    assert detector.best == pytest.approx((0.9, 6, 2))
    assert detector.verdict is not None
    assert detector.verdict["epoch"] == 4


@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_mean_training_loss_does_not_depend_on_accumulation(
    tmp_path: Path, accumulated: int
) -> None:
    replay(
        OverfittingDetector(), [3.0], train=2.0, logger=CSVLogger(tmp_path),
        accumulate_grad_batches=accumulated,
    )  # fmt: skip
    assert float(logged(tmp_path)[-1]["overfit/val_to_train"]) == pytest.approx(1.5)


class LogsMore(Replay):
    """Of which a share is right as well, and whose training logs a loss of its own."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.log("train/mean", 0.5, on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.log("val/accuracy", 0.9)


@pytest.mark.parametrize(
    ("options", "ratio"), [({}, 3.0), ({"train_loss": "train/mean", "val_loss": "val/loss"}, 6.0)]
)
def test_the_losses_that_are_compared_may_be_named(
    tmp_path: Path, options: dict[str, Any], ratio: float
) -> None:
    detector = OverfittingDetector("val/accuracy", "max", ratio=9.0, **options)
    # A metric of the training epoch is there from the next one on.
    run = trainer(detector, epochs=2, logger=CSVLogger(tmp_path))
    with pytest.warns(UserWarning, match="train/mean") if options else nullcontext():
        run.fit(LogsMore([1.0, 1.0], [3.0, 3.0]))
    assert float(logged(tmp_path)[-1]["overfit/val_to_train"]) == pytest.approx(ratio)


SCRIPT = """
import lightning.pytorch as pl, torch
from lightning_arrcoc.callbacks import OverfittingDetector
class Model(pl.LightningModule):
    def __init__(self):
        super().__init__(); self.weight = torch.nn.Parameter(torch.zeros(()))
    def training_step(self, batch, batch_idx):
        return self.weight * 0 + 1.0
    def validation_step(self, batch, batch_idx):
        rank, epoch = self.trainer.global_rank, self.current_epoch
        self.log("val/loss", 1.0 + epoch if rank == 0 else 9.0 - epoch)  # they do not agree
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.zeros(4, 1))
    val_dataloader = train_dataloader
detector = OverfittingDetector(policy="stop", when=1, ratio=None, gap=None, worse=2)
trainer = pl.Trainer(
    max_epochs=8, accelerator="cpu", devices=2, strategy="ddp", logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    callbacks=[detector],
)
trainer.fit(Model())
print(f"rank {trainer.global_rank} ended in epoch {trainer.current_epoch}", flush=True)
"""


def test_all_ranks_end_together_though_their_metrics_differ(
    tmp_path: Path, run_program: Callable[..., Any]
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = run_program(tmp_path / "script.py", ranks=2)
    assert done.returncode == 0, done.stderr[-2000:]
    for rank in range(2):
        assert f"rank {rank} ended in epoch 3" in done.stdout


# -------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "up"}, "mode='up'; choose 'min' or 'max'"),
        ({"policy": "skip"}, "policy='skip'; choose 'log' or 'stop'"),
        ({"worse": 0}, "worse=0; expected a whole number, 1 or more"),
        ({"ratio": 1.0}, "ratio=1.0; expected more than 1"),
        ({"ratio": math.nan}, "ratio=nan"),
        ({"gap": 0.0}, "gap=0.0; expected more than 0"),
        ({"gap_window": 3}, "gap_window=3; expected a whole number, 4 or more"),
        ({"patience": 0}, "patience=0; expected a whole number, 1 or more"),
        ({"min_delta": -1.0}, "min_delta=-1.0; expected 0 or more"),
        ({"when": "some"}, "when='some'; choose 'any', 'all' or a number from 1 to 4"),
        ({"when": 5}, "when=5; choose"),
        ({"when": True}, "when=True; choose"),
        ({"when": 2, "worse": None, "ratio": None, "gap": None}, "a number from 1 to 1"),
        ({"worse": None, "ratio": None, "gap": None, "patience": None}, "Every sign is left out"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        OverfittingDetector(**options)
