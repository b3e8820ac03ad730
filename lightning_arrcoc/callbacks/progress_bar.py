"""A progress bar of what is measured."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar

from lightning_arrcoc.callbacks.for_trainer import ForTrainer


class MetricsProgressBar(ForTrainer, RichProgressBar):
    """Lightning's rich progress bar without the logger's version, or a last epoch that is none.

    Changes nothing in a run and logs nothing; takes what `RichProgressBar` takes.
    """

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics

    def _get_train_description(self, current_epoch: int) -> str:
        """Private to Lightning, which shows a run without a last epoch as "Epoch 0/-2"."""
        shown: str = super()._get_train_description(current_epoch)
        return shown.replace("/-2", "  ")
