"""The bar shows what a run measures and nothing about its logger."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import pytest
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger

from lightning_arrcoc.callbacks.progress_bar import MetricsProgressBar


class Logged(BoringModel):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)["loss"]
        self.log("train/loss", loss, prog_bar=True)
        return loss


def shown(bar: RichProgressBar, folder: Path) -> set[str]:
    trainer = pl.Trainer(
        max_steps=1, limit_val_batches=0, logger=CSVLogger(folder), callbacks=[bar],
        accelerator="cpu", enable_checkpointing=False, enable_model_summary=False,
        log_every_n_steps=1,
    )  # fmt: skip
    model = Logged()
    trainer.fit(model)
    return set(bar.get_metrics(trainer, model))


def test_the_loggers_version_is_left_out(tmp_path: Path) -> None:
    assert shown(RichProgressBar(), tmp_path) == {"v_num", "train/loss"}
    assert shown(MetricsProgressBar(), tmp_path) == {"train/loss"}


def test_a_run_without_a_last_epoch_is_shown_without_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where Lightning's private name moves: then "0/-2" is back."""
    shown(MetricsProgressBar(), tmp_path)
    assert "Epoch 0 " in capsys.readouterr().out
    shown(RichProgressBar(), tmp_path)
    assert "Epoch 0/-2" in capsys.readouterr().out
