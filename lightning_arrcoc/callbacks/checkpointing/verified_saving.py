"""Saves that all ranks know the outcome of, and that a run can outlive the failure of."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import proxy

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_arrcoc.architecture import architecture_of
from lightning_arrcoc.callbacks.checkpointing.retention import Series, remember, restore
from lightning_arrcoc.callbacks.for_trainer import ForTrainer
from lightning_arrcoc.callbacks.metric_names import nearest
from lightning_arrcoc.events import record
from lightning_arrcoc.plugins import sharded
from lightning_arrcoc.plugins.atomic_checkpoint_io import AtomicCheckpointIO


class SaveError(OSError):
    """A checkpoint could not be saved; the one before it stands."""

    is_counted = False


class VerifiedSaving(ForTrainer, ModelCheckpoint):
    """`ModelCheckpoint` over `AtomicCheckpointIO`: what fails leaves it as it was.

    Where rank zero alone writes, an error there would leave the others waiting; so it is held back
    until all have passed the barrier of the save, and then told to all.
    """

    on_save_error: str = "raise"
    max_save_errors: int = 3
    _reason = ""  # of the save under way
    _resumed_from: str | None = None  # is not pruned
    _errors_in_a_row = 0
    _untold: dict[str, Any] | None = None  # the last save, until it is known to be there

    def _before_saving(self, trainer: pl.Trainer) -> None:
        """For what ranks have to gather; all of them come here."""

    def _save_topk_checkpoint(
        self, trainer: pl.Trainer, monitor_candidates: dict[str, Tensor]
    ) -> None:
        with self._saving(trainer, "best" if self.monitor else ""):
            try:
                super()._save_topk_checkpoint(trainer, monitor_candidates)
            except MisconfigurationException as error:
                if self.monitor is None or self.monitor in monitor_candidates:
                    raise
                raise MisconfigurationException(
                    f"{type(self).__name__} monitors {self.monitor!r}, which no validation logged. "
                    + nearest("monitor", self.monitor, trainer.callback_metrics)
                ) from error

    def _save_last_checkpoint(
        self, trainer: pl.Trainer, monitor_candidates: dict[str, Tensor]
    ) -> None:
        with self._saving(trainer, "last"):
            super()._save_last_checkpoint(trainer, monitor_candidates)

    def _save_as(self, trainer: pl.Trainer, path: str, series: Series, reason: str) -> None:
        with self._saving(trainer, reason):
            self._save_checkpoint(trainer, path)
            series.add(path, lambda old: self._remove_checkpoint(trainer, old))

    def _path(self, name: str) -> str:
        return os.path.join(str(self.dirpath), name + self.FILE_EXTENSION)  # noqa: PTH118

    @contextmanager
    def _saving(self, trainer: pl.Trainer, reason: str) -> Iterator[None]:
        """What fails inside leaves the callback as it was."""
        remembered, before = remember(self), self._reason
        self._reason = reason or before
        with self._enduring(trainer):
            try:
                yield
            except SaveError:
                restore(self, remembered)
                raise
            finally:
                self._reason = before

    @contextmanager
    def _enduring(self, trainer: pl.Trainer) -> Iterator[None]:
        """Failed saves inside are raised or endured, as was asked."""
        try:
            yield
        except SaveError as error:
            if error.is_counted:
                raise
            error.is_counted, self._untold = True, None
            self._errors_in_a_row += 1
            if trainer.is_global_zero:
                record(
                    trainer, "checkpoint/failed", error=str(error), in_a_row=self._errors_in_a_row
                )
            if self.on_save_error == "raise" or self._errors_in_a_row > self.max_save_errors:
                raise
            rank_zero_warn(
                f"A checkpoint could not be saved, the one before it stands: {error} "
                f"({self._errors_in_a_row} of {self.max_save_errors} in a row are endured)."
            )

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        """Save on all ranks together, and have all of them know whether it worked."""
        io, folder = self._io(trainer), Path(filepath)
        if io.async_save:
            with self._enduring(trainer):
                self._know_the_last(trainer)
        self._before_saving(trainer)
        if sharded.writes_folders(trainer.strategy):
            self._begin(trainer, folder)
        with io.holding_errors():
            trainer.save_checkpoint(filepath, self.save_weights_only)
            if trainer.is_global_zero and sharded.is_sharded(folder):
                io.attempt(filepath, lambda: self._commit(trainer, folder))
        self._raise_agreed(trainer, io.take_error())
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = filepath
        self._untold = {"path": filepath, "saved_step": trainer.global_step, "reason": self._reason}
        if not io.async_save:
            self._tell(trainer)

    def _know_the_last(self, trainer: pl.Trainer) -> None:
        """Wait for the save before, and have all ranks know whether it worked."""
        io = self._io(trainer)
        io.wait()
        self._raise_agreed(trainer, io.take_error())
        self._tell(trainer)

    def _begin(self, trainer: pl.Trainer, folder: Path) -> None:
        error = None
        if trainer.is_global_zero:
            try:
                sharded.begin(folder)
            except OSError as found:
                error = found
        self._raise_agreed(trainer, error)

    def _commit(self, trainer: pl.Trainer, folder: Path) -> None:
        architecture = architecture_of(trainer.lightning_module)
        sharded.commit(folder, trainer.global_step, {"architecture": architecture})
        sharded.finish(folder)

    def _save_alone(self, trainer: pl.Trainer, path: str, series: Series, reason: str) -> None:
        """Save without a word to other ranks: one of them may be gone, or wait elsewhere."""
        io, self._reason = self._io(trainer), reason
        # Trainer.save_checkpoint ends in a barrier, which another rank may never reach.
        io.save_checkpoint(
            trainer._checkpoint_connector.dump_checkpoint(self.save_weights_only), path
        )
        series.add(path, io.remove_checkpoint)
        io.wait()
        self._last_global_step_saved = trainer.global_step
        self._untold = {"path": path, "saved_step": trainer.global_step, "reason": reason}
        self._tell(trainer)

    def _raise_agreed(self, trainer: pl.Trainer, error: Exception | None) -> None:
        """Raise on all ranks what rank zero ran into; they wait for it."""
        told = trainer.strategy.broadcast(None if error is None else str(error))
        if told is not None:
            raise SaveError(told) from error

    def _remove_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        if filepath != self._resumed_from:
            super()._remove_checkpoint(trainer, filepath)

    def file_exists(self, filepath: str | Path, trainer: pl.Trainer) -> bool:
        """Also what is still being written."""
        here = trainer.is_global_zero and (
            self._fs.exists(filepath) or self._io(trainer).is_saving(str(filepath))
        )
        return bool(trainer.strategy.reduce_boolean_decision(bool(here), all=False))

    def _tell_early(self, trainer: pl.Trainer) -> None:
        """What is written in the background is known to rank zero before the others."""
        io = self._io(trainer)
        if trainer.is_global_zero and not io.is_saving() and not io.has_error:
            self._tell(trainer)

    def _tell(self, trainer: pl.Trainer) -> None:
        """The last save is there, if one was asked for; some loggers upload it."""
        saved, self._untold = self._untold, None
        if saved is None:
            return
        self._errors_in_a_row = 0
        if trainer.is_global_zero:
            record(trainer, "checkpoint/saved", **saved)
            for logger in trainer.loggers if self._is_the_best_one(trainer) else []:
                logger.after_save_checkpoint(proxy(self))

    def _is_the_best_one(self, trainer: pl.Trainer) -> bool:
        """Loggers call best what they are told of last, so that is not one that follows nothing."""
        callbacks = trainer.checkpoint_callbacks
        return self.monitor is not None or not any(
            getattr(callback, "monitor", None) for callback in callbacks
        )

    def _io(self, trainer: pl.Trainer) -> AtomicCheckpointIO:
        io = trainer.strategy.checkpoint_io
        assert isinstance(io, AtomicCheckpointIO)
        return io
