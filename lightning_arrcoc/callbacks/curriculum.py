"""Harder samples as soon as the easy ones are mastered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from lightning_arrcoc.callbacks.for_trainer import ForTrainer
from lightning_arrcoc.callbacks.metric_names import nearest


class CurriculumAdvance(ForTrainer):
    """Changes what a run trains on: its training source moves to the next stage when mastered.

    At the end of a training epoch the monitored metric is compared with the threshold; what is
    reached counts, not how many steps it took. The source is the data module's `train`, any
    object with `stages` and `stage`; loaders must be rebuilt every epoch. A run resumed within an
    epoch judges what it has logged since, or the whole epoch where the module keeps its metric in
    checkpoints, as `ArrCocModule` keeps train/accuracy_epoch.

    =================  =========================================
    logged             what
    =================  =========================================
    curriculum/stage   index of the stage, from 0
    =================  =========================================

    Args:
        monitor: a metric that training logs.
        threshold: a stage is mastered above it; one for all, or one for each stage but the last.

    Raises:
        ValueError: a threshold is not a number.
    """

    def __init__(
        self, monitor: str = "train/accuracy", threshold: float | Sequence[float] = 0.9
    ) -> None:
        self.monitor = monitor
        self.threshold = _checked(threshold)
        self._stage = 0
        self._unjudged = False  # a run resumed at the end of an epoch ends it again without a step
        self._stepped = False

    def identity(self) -> dict[str, Any]:
        # A run may go on with other thresholds.
        return {"monitor": self.monitor}

    def state_dict(self) -> dict[str, Any]:
        return {"stage": self._stage, "unjudged": self._unjudged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._stage = int(state_dict["stage"])
        self._unjudged = bool(state_dict.get("unjudged", False))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if getattr(trainer, "reload_dataloaders_every_n_epochs", 0) != 1:
            raise MisconfigurationException(
                "CurriculumAdvance changes the training source between epochs, but the Trainer "
                "keeps its loaders. Set Trainer(reload_dataloaders_every_n_epochs=1)."
            )
        source = self._source(trainer)
        if not hasattr(source, "stages"):
            raise MisconfigurationException(
                "CurriculumAdvance needs a data module whose `train` has stages; got "
                f"{type(source).__name__}. Wrap the sources in a StagedDataset."
            )
        steps = len(source.stages) - 1
        if len(self._thresholds(steps)) != steps:
            raise MisconfigurationException(
                f"CurriculumAdvance has {len(self._thresholds(steps))} thresholds for "
                f"{steps + 1} stages; expected {steps}, or a single number."
            )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Before the loaders are made: their workers keep the stage that they were made with."""
        self._go_on(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._go_on(trainer)  # sharding strategies restore after on_fit_start

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._unjudged = self._stepped = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        source = self._source(trainer)
        pl_module.log("curriculum/stage", float(self._stage), sync_dist=True)
        if not self._unjudged:
            return
        self._unjudged = False
        reached = trainer.callback_metrics.get(self.monitor)
        if reached is None and not self._stepped:
            return  # resumed behind the last batch, and the module has not kept its metrics
        if reached is None:
            raise MisconfigurationException(
                f"CurriculumAdvance monitors {self.monitor!r}, which training did not log. "
                + nearest("monitor", self.monitor, trainer.callback_metrics)
            )
        thresholds = self._thresholds(len(source.stages) - 1)
        if self._stage >= len(thresholds):
            return
        mastered = float(reached) > thresholds[self._stage]
        if trainer.strategy.broadcast(mastered):
            self._stage += 1
            source.stage = self._stage
            rank_zero_info(f"Step {trainer.global_step}: on to stage {self._stage}.")

    def _go_on(self, trainer: pl.Trainer) -> None:
        source = self._source(trainer)
        if self._stage >= len(source.stages):
            raise MisconfigurationException(
                f"The checkpoint was at stage {self._stage}, but there are {len(source.stages)} "
                "stages, counted from 0. Resume with the stages it was trained on."
            )
        source.stage = self._stage

    def _thresholds(self, steps: int) -> tuple[float, ...]:
        if isinstance(self.threshold, tuple):
            return self.threshold
        return (self.threshold,) * steps

    def _source(self, trainer: pl.Trainer) -> Any:
        return getattr(getattr(trainer, "datamodule", None), "train", None)


def _checked(threshold: float | Sequence[float]) -> float | tuple[float, ...]:
    values: list[Any] = [threshold]
    if isinstance(threshold, Sequence) and not isinstance(threshold, str):
        values = list(threshold)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            raise ValueError(
                f"threshold={threshold!r}; expected a number that the metric can exceed, or one "
                "for each stage but the last."
            )
    return tuple(values) if isinstance(threshold, Sequence) else threshold
