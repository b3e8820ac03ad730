"""Pictures of a run, shown by each of its loggers that can hold one."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from PIL import Image

from lightning_arrcoc.events import record


@rank_zero_only
def log_picture(trainer: pl.Trainer, name: str, path: Path) -> None:
    """Hand a picture that was saved to the loggers of a trainer, and record where it lies.

    TensorBoard, Weights & Biases and MLflow hold it; who listens to events is told
    ``picture/saved``. What a logger raises becomes a warning: a run does not end for its record.

    Args:
        trainer: whose step it belongs to.
        name: ``area/what``.
        path: a PNG.
    """
    record(trainer, "picture/saved", picture=name, path=str(path))
    for logger in trainer.loggers:
        try:
            _show(logger, name, path, trainer.global_step)
        except Exception as error:
            who = type(logger).__name__
            warnings.warn(f"{who} could not take the picture {name!r}: {error}", stacklevel=2)


def _show(logger: Any, name: str, path: Path, step: int) -> None:
    if isinstance(logger, WandbLogger):
        logger.log_image(name, [str(path)], step)
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_artifact(logger.run_id, str(path), "pictures")
    elif isinstance(logger, TensorBoardLogger):
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        logger.experiment.add_image(name, pixels, step, dataformats="HWC")
        logger.experiment.flush()
