"""What a checkpoint tells about the run it comes from, in tensors and plain types."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import lightning.pytorch as pl

from lightning_arrcoc.architecture import architecture_of
from lightning_arrcoc.callbacks.checkpointing.emergency import Agreement
from lightning_arrcoc.callbacks.checkpointing.random_states import rng_states
from lightning_arrcoc.plugins.manifest import STAMPS
from lightning_arrcoc.provenance import describe_run

Plain = dict[str, Any]


class Stamps:
    """Collects what a run's checkpoints tell of it, and puts it into each."""

    def __init__(self) -> None:
        self._run: Plain = {}
        self._gathered: Plain = {}

    def describe(self) -> None:
        """Once a run: it asks git."""
        self._run = describe_run()

    def gather(self, agreement: Agreement, reason: str) -> None:
        """Why the save that follows is made, and all ranks' random states."""
        self._gathered = {"reason": reason, "rng": agreement.gather(rng_states())}

    def put(
        self, checkpoint: Plain, trainer: pl.Trainer, module: pl.LightningModule, reason: str
    ) -> None:
        """Stamp a checkpoint; where nothing was gathered, with this rank's random states alone."""
        gathered, self._gathered = self._gathered, {}
        alone = {"reason": reason, "rng": {str(trainer.global_rank): rng_states()}}
        checkpoint[STAMPS] = {
            **self._run,
            "architecture": architecture_of(module),
            "metrics": metrics_of(trainer),
            **(gathered or alone),
            "saved_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }


def metrics_of(trainer: pl.Trainer) -> dict[str, float]:
    """The latest of every logged metric.

    None once a run of several processes has failed: computing one may ask the others.
    """
    if trainer.interrupted and trainer.world_size > 1:
        return {}
    return {name: float(value) for name, value in trainer.callback_metrics.items()}
