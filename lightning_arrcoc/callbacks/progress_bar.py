"""A progress bar of what is measured."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar


class MetricsProgressBar(RichProgressBar):
    """Lightning's rich progress bar without the logger's version among the metrics.

    Changes nothing in a run and logs nothing; takes what `RichProgressBar` takes.
    """

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics
