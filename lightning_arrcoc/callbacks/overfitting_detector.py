"""Overfitting noticed while it happens, by several signs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_arrcoc.callbacks.for_trainer import ForTrainer
from lightning_arrcoc.callbacks.metric_names import nearest
from lightning_arrcoc.callbacks.overfitting_signs import (
    GAP_EVALUATIONS,
    Apart,
    Diverging,
    Evaluation,
    Sign,
    Stuck,
    Worsening,
)
from lightning_arrcoc.events import record

VAL_LOSS = re.compile(r"(^|.*[/_])(val|valid|validation)[/_]loss(_epoch)?(/dataloader_idx_0)?")


class Best(NamedTuple):
    """The best evaluation so far, by the monitored metric.

    Attributes:
        value: of the metric.
        step, epoch: the trainer's.
    """

    value: float
    step: int
    epoch: int


class OverfittingDetector(ForTrainer):
    """Watches validation for four signs of overfitting, and warns or stops.

    Judged at the end of every validation of `fit`, sanity checks apart:

    * worsening: the metric was worse than the time before, `worse` times in a row.
    * apart: the validation loss is more than `ratio` times the training loss.
    * diverging: the gap between the two grows; see `overfitting_signs.Diverging`.
    * stuck: no improvement by `min_delta` for `patience` evaluations.

    Each warns once, with numbers and what to try. ``policy="stop"`` ends training when enough of
    them are raised at the same evaluation. Rank zero decides for all. A metric that is nan is bad,
    and never the best; one that is not logged at an evaluation is waited for. The counts go on in
    a resumed run.

    ========================================  ====================================================
    logged                                    what, at every evaluation
    ========================================  ====================================================
    overfit/worse_in_a_row                    evaluations
    overfit/val_to_train                      ratio of the losses
    overfit/gap_growth                        over the window, as a share of the validation loss
    overfit/without_improvement               evaluations
    overfit/signs                             how many are raised
    ========================================  ====================================================

    In checkpoints, in plain types: ``best`` (value, step and epoch of the best evaluation) and
    ``verdict``. Where it stops, a checkpoint of its own has the verdict, ``overfit-step=N.ckpt``
    beside the others: no other one is touched. Events: ``overfit/sign``, ``overfit/best``,
    ``overfit/stopped``.

    Args:
        monitor: the metric that is judged; None takes the logged validation loss.
        mode: "min" where lower is better, "max" where higher is.
        policy: "log" warns only, "stop" also ends training.
        when: how many signs end it: "any", "all" or a number.
        worse, ratio, gap, patience: the thresholds of the four signs, in their order; None leaves
            a sign out.
        gap_window: evaluations that a growing gap is judged over.
        min_delta: what counts as an improvement, in units of the metric.
        val_loss: compared with the training loss; None takes `monitor` if that is a loss to be
            minimised, otherwise the logged validation loss.
        train_loss: a logged metric; None takes the mean of what `training_step` returned since the
            evaluation before, which needs no logging.

    Attributes:
        best: the best evaluation so far; None before the first.
        verdict: None, or why training was to end: `step`, `epoch`, `reasons` by sign, `best`, and
            the `checkpoint` of the best evaluation where a checkpoint callback with the same
            monitor has one. A plain dictionary.

    Raises:
        ValueError: an unknown mode or policy, a threshold without sense, no sign left, or a
            `when` beyond their number.
    """

    def __init__(
        self,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        *,
        policy: Literal["log", "stop"] = "log",
        when: Literal["any", "all"] | int = 2,
        worse: int | None = 3,
        ratio: float | None = 2.0,
        gap: float | None = 0.2,
        patience: int | None = 5,
        gap_window: int = GAP_EVALUATIONS,
        min_delta: float = 0.0,
        val_loss: str | None = None,
        train_loss: str | None = None,
    ) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode={mode!r}; choose 'min' or 'max'.")
        if policy not in ("log", "stop"):
            raise ValueError(f"policy={policy!r}; choose 'log' or 'stop'.")
        self.signs: list[Sign] = []
        if worse is not None:
            self.signs.append(Worsening(worse))
        if ratio is not None:
            self.signs.append(Apart(ratio))
        if gap is not None:
            self.signs.append(Diverging(gap, gap_window))
        if patience is not None:
            self.signs.append(Stuck(patience, min_delta))
        self.monitor, self.mode, self.policy = monitor, mode, policy
        self.enough = _enough(when, len(self.signs))
        self.val_loss, self.train_loss = val_loss, train_loss
        self.best: Best | None = None
        self.verdict: dict[str, Any] | None = None
        self._warned: set[str] = set()
        self._loss: Tensor | None = None  # summed on the device: no step waits for it
        self._losses = 0
        self._stopped = False
        self._seen: dict[str, Tensor] = {}

    def identity(self) -> dict[str, Any]:
        return {"monitor": self.monitor, "mode": self.mode}

    def state_dict(self) -> dict[str, Any]:
        return {
            "signs": {sign.name: sign.state_dict() for sign in self.signs},
            "best": self.best._asdict() if self.best else None,
            "verdict": self.verdict,
            "warned": sorted(self._warned),
            "loss": None if self._loss is None else float(self._loss),
            "losses": self._losses,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for sign in self.signs:
            if sign.name in state_dict["signs"]:  # a run may go on with other signs
                sign.load_state_dict(state_dict["signs"][sign.name])
        self.best = Best(**state_dict["best"]) if state_dict["best"] else None
        self.verdict = state_dict["verdict"]
        self._warned = set(state_dict["warned"])
        loss = state_dict["loss"]
        self._loss = None if loss is None else torch.tensor(loss)
        self._losses = state_dict["losses"]

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if not isinstance(loss, Tensor):
            return  # the step was skipped
        loss = loss.detach().float()
        if pl_module.automatic_optimization and trainer.accumulate_grad_batches > 1:
            loss = loss * trainer.accumulate_grad_batches  # Lightning has divided by it
        loss = loss.mean()  # a copy: compiled models write the next one over it
        self._loss = loss if self._loss is None else self._loss.to(loss.device) + loss
        self._losses += 1

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the verdict, in a checkpoint of its own beside the others."""
        folder = getattr(trainer.checkpoint_callback, "dirpath", None)
        if self._stopped and folder is not None:
            trainer.save_checkpoint(Path(folder) / f"overfit-step={trainer.global_step}.ckpt")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        found = self._evaluation(trainer)
        if found is None:
            return
        self._keep_best(trainer, found.score)
        for sign in self.signs:
            sign.update(found)
        raised = [sign for sign in self.signs if sign.raised]
        self._log(trainer, len(raised))
        for sign in raised:
            self._warn(trainer, sign)
        enough = trainer.strategy.broadcast(len(raised) >= self.enough)
        if enough and self.policy == "stop":
            self._stop(trainer, raised)

    # ------------------------------------------------------------------------- what was measured

    def _evaluation(self, trainer: pl.Trainer) -> Evaluation | None:
        """None where the monitored metric was not logged."""
        train_loss = self._mean_train_loss(trainer)
        metrics = self._logged_now(trainer)
        monitor = self.monitor or _validation_loss(metrics)
        if monitor is None or monitor not in metrics:
            self._miss("monitor", self.monitor, metrics)
            return None
        score = float(metrics[monitor])
        lower_is_better = self.mode == "min"
        compared = self.val_loss or (monitor if lower_is_better else _validation_loss(metrics))
        if self.val_loss is not None and self.val_loss not in metrics:
            self._miss("val_loss", self.val_loss, metrics)
        return Evaluation(
            score if lower_is_better else -score,
            float(metrics[compared]) if compared in metrics else math.nan,
            train_loss,
        )

    def _logged_now(self, trainer: pl.Trainer) -> dict[str, Tensor]:
        """Without what Lightning remembers from an evaluation before: the very same tensors."""
        metrics = dict(trainer.callback_metrics)
        fresh = {name: v for name, v in metrics.items() if v is not self._seen.get(name)}
        self._seen = metrics
        return fresh

    def _mean_train_loss(self, trainer: pl.Trainer) -> float:
        """Over all ranks, since the time before."""
        mean = math.nan if self._loss is None else float(self._loss) / self._losses
        self._loss, self._losses = None, 0
        if self.train_loss is None:
            if trainer.world_size == 1:
                return mean
            own = torch.tensor(mean, device=trainer.strategy.root_device)
            return float(trainer.strategy.reduce(own, reduce_op="mean"))
        metrics = trainer.callback_metrics
        if self.train_loss not in metrics:
            self._miss("train_loss", self.train_loss, metrics)
            return math.nan
        return float(metrics[self.train_loss])

    def _miss(self, role: str, name: str | None, metrics: Mapping[str, Any]) -> None:
        if f"no {role}" in self._warned:
            return
        self._warned.add(f"no {role}")
        wanted = f"{name!r} was not logged by" if name else "no validation loss was found at"
        rank_zero_warn(
            f"OverfittingDetector: {wanted} this evaluation; it is waited for. "
            + nearest(role, name or "val/loss", metrics, similar=0.0 if name else 0.6)
        )

    # ----------------------------------------------------------------------- what follows from it

    def _keep_best(self, trainer: pl.Trainer, score: float) -> None:
        value = score if self.mode == "min" else -score
        sign = 1 if self.mode == "min" else -1
        if math.isnan(score) or (self.best and score >= sign * self.best.value):
            return
        self.best = Best(value, trainer.global_step, trainer.current_epoch)
        record(trainer, "overfit/best", **self.best._asdict())

    def _log(self, trainer: pl.Trainer, raised: int) -> None:
        figures = {
            f"overfit/{sign.figure_name}": sign.figure
            for sign in self.signs
            if not math.isnan(sign.figure)
        }
        for logger in trainer.loggers:
            logger.log_metrics(figures | {"overfit/signs": float(raised)}, trainer.global_step)

    def _warn(self, trainer: pl.Trainer, sign: Sign) -> None:
        if sign.name in self._warned:
            return
        self._warned.add(sign.name)
        record(trainer, "overfit/sign", sign=sign.name, reason=sign.reason, figure=sign.figure)
        best = self.best
        since = f" Best: {best.value:.4g} at step {best.step}, epoch {best.epoch}." if best else ""
        rank_zero_warn(
            f"OverfittingDetector: {sign.reason} (step {trainer.global_step}).{since} "
            f"What to try: {sign.advice}."
        )

    def _stop(self, trainer: pl.Trainer, raised: list[Sign]) -> None:
        self.verdict = {
            "step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "reasons": {sign.name: sign.reason for sign in raised},
            "best": self.best._asdict() if self.best else None,
            "checkpoint": self._best_checkpoint(trainer),
        }
        trainer.should_stop = self._stopped = True
        record(trainer, "overfit/stopped", **self.verdict)
        reasons = "; ".join(self.verdict["reasons"].values())
        where = self.verdict["checkpoint"]
        rank_zero_info(
            f"OverfittingDetector stops training at step {trainer.global_step}: {reasons}."
            + (f" The best checkpoint is {where}." if where else "")
        )

    def _best_checkpoint(self, trainer: pl.Trainer) -> str | None:
        """Of a checkpoint callback that follows the same metric."""
        monitor = self.monitor or _validation_loss(trainer.callback_metrics)
        for callback in trainer.checkpoint_callbacks:
            if getattr(callback, "monitor", None) == monitor:
                return getattr(callback, "best_model_path", None) or None
        return None


def _enough(when: str | int, signs: int) -> int:
    if not signs:
        raise ValueError("Every sign is left out; keep one of worse, ratio, gap, patience.")
    numbers: dict[str | int, int] = {"any": 1, "all": signs}
    enough = numbers.get(when, when)
    if isinstance(enough, bool) or not isinstance(enough, int) or not 1 <= enough <= signs:
        raise ValueError(f"when={when!r}; choose 'any', 'all' or a number from 1 to {signs}.")
    return enough


def _validation_loss(metrics: Mapping[str, Any]) -> str | None:
    """The logged validation loss, of whole epochs where there is one."""
    names = [name for name in metrics if VAL_LOSS.fullmatch(name)]
    return min(names, key=lambda name: ("_epoch" not in name, len(name)), default=None)
