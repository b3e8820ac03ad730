"""A few steps of the allocator's life, to be looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from lightning_arrcoc.callbacks.arguments import check_counts
from lightning_arrcoc.callbacks.for_trainer import ForTrainer
from lightning_arrcoc.events import record
from lightning_arrcoc.memory import history


class MemorySnapshot(ForTrainer):
    """Observes the CUDA allocator over some steps and writes what it did; logs nothing.

    `memory-steps=A-B.pickle` is what pytorch.org/memory_viz takes, `memory-steps=A-B.html` the same
    as a timeline, made here by torch; the browser that opens it loads torch's viewer from a content
    delivery network. Rank zero writes. What was recorded until an exception is written as well.
    Where there is no CUDA device nothing is recorded, and that is said once.

    Args:
        start, stop: optimizer steps [start, stop), counted from 0.
        dirpath: folder; None takes `memory` in the trainer's root folder.
        entries: allocations and frees that are kept, the last ones.

    Raises:
        ValueError: the steps are no range, or `entries` is below 1.
    """

    def __init__(
        self,
        start: int = 2,
        stop: int = 5,
        dirpath: str | Path | None = None,
        entries: int = history.ENTRIES,
    ) -> None:
        check_counts(0, start=start, stop=stop)
        if start >= stop:
            raise ValueError(f"start={start}, stop={stop}; expected start < stop.")
        check_counts(1, entries=entries)
        self.start, self.stop, self.dirpath, self.entries = start, stop, dirpath, entries
        self._recording = False

    def identity(self) -> dict[str, Any]:
        return {"start": self.start, "stop": self.stop}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not history.can_record():
            rank_zero_info("MemorySnapshot records nothing: only CUDA's allocator keeps a history.")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        within = self.start <= trainer.global_step < self.stop
        if within and not self._recording and trainer.is_global_zero and history.can_record():
            history.start(self, self.entries)
            self._recording = True

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if trainer.global_step >= self.stop:
            self._write(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write(trainer)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._write(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._recording = False
        history.stop(self)

    def _write(self, trainer: pl.Trainer) -> None:
        if not self._recording:
            return
        self._recording = False
        folder = Path(self.dirpath or Path(trainer.default_root_dir) / "memory")
        try:
            paths = history.write(
                history.take(), folder, f"memory-steps={self.start}-{trainer.global_step}"
            )
        except OSError as error:  # a run does not end for its record
            rank_zero_warn(f"The memory of steps {self.start} to {self.stop} is lost: {error}")
            return
        finally:
            history.stop(self)
        record(trainer, "memory/snapshot_written", paths=[str(path) for path in paths])
        rank_zero_info(f"Memory of steps {self.start} to {trainer.global_step}: {paths[-1]}")
