"""Saves that all ranks know the outcome of, and that a run can outlive the failure of."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import proxy

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_arrcoc.callbacks.retention import Series, remember, restore
from lightning_arrcoc.callbacks.stamps import architecture_of
from lightning_arrcoc.plugins import sharded
from lightning_arrcoc.plugins.atomic_checkpoint_io import AtomicCheckpointIO


class SaveError(OSError):
    """A checkpoint could not be saved; the one before it stands."""


class VerifiedSaving(ModelCheckpoint):
    """`ModelCheckpoint` over `AtomicCheckpointIO`: what fails leaves it as it was.

    Where rank zero alone writes, an error there would leave the others waiting; so it is held back
    until all have passed the barrier of the save, and then told to all.
    """

    on_save_error: str = "raise"
    max_save_errors: int = 3
    _reason = ""  # of the save under way
    _resumed_from: str | None = None  # is not pruned
    _errors_in_a_row = 0
    _untold = False  # loggers do not know of the last save yet

    def _before_saving(self, trainer: pl.Trainer) -> None:
        """For what ranks have to gather; all of them come here."""

    def _save_topk_checkpoint(
        self, trainer: pl.Trainer, monitor_candidates: dict[str, Tensor]
    ) -> None:
        with self._saving("best" if self.monitor else ""):
            super()._save_topk_checkpoint(trainer, monitor_candidates)

    def _save_last_checkpoint(
        self, trainer: pl.Trainer, monitor_candidates: dict[str, Tensor]
    ) -> None:
        with self._saving("last"):
            super()._save_last_checkpoint(trainer, monitor_candidates)

    def _save_as(self, trainer: pl.Trainer, path: str, series: Series, reason: str) -> None:
        with self._saving(reason):
            self._save_checkpoint(trainer, path)
            series.add(path, lambda old: self._remove_checkpoint(trainer, old))

    def _path(self, name: str) -> str:
        return os.path.join(str(self.dirpath), name + self.FILE_EXTENSION)  # noqa: PTH118

    @contextmanager
    def _saving(self, reason: str = "") -> Iterator[None]:
        """What fails inside leaves the callback as it was."""
        remembered, before = remember(self), self._reason
        self._reason = reason or before
        with self._enduring():
            try:
                yield
            except SaveError:
                restore(self, remembered)
                raise
            finally:
                self._reason = before

    @contextmanager
    def _enduring(self) -> Iterator[None]:
        """Failed saves inside are raised or endured, as was asked."""
        try:
            yield
        except SaveError as error:
            self._errors_in_a_row += 1
            if self.on_save_error == "raise" or self._errors_in_a_row > self.max_save_errors:
                raise
            rank_zero_warn(
                f"A checkpoint could not be saved, the one before it stands: {error} "
                f"({self._errors_in_a_row} of {self.max_save_errors} in a row are endured)."
            )

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        """Save on all ranks together, and have all of them know whether it worked."""
        io = self._io(trainer)
        if io.async_save:
            io.wait()
            with self._enduring():  # what the save before ran into
                self._raise_agreed(trainer)
        self._before_saving(trainer)
        folder = Path(filepath)
        if sharded.writes_folders(trainer.strategy):
            if trainer.is_global_zero:
                sharded.begin(folder)
            trainer.strategy.barrier("AtomicCheckpoint.begin")
        with io.holding_errors():
            trainer.save_checkpoint(filepath, self.save_weights_only)
            if trainer.is_global_zero and sharded.is_sharded(folder):
                io.attempt(lambda: self._commit(trainer, folder))
        self._raise_agreed(trainer)
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = filepath
        self._untold = True
        if not io.async_save:
            self._tell_loggers(trainer)

    def _commit(self, trainer: pl.Trainer, folder: Path) -> None:
        architecture = architecture_of(trainer.lightning_module)
        sharded.commit(folder, trainer.global_step, {"architecture": architecture})
        sharded.finish(folder)

    def _raise_agreed(self, trainer: pl.Trainer) -> None:
        """Raise on all ranks what rank zero's plugin ran into."""
        error = self._io(trainer).take_error()
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

    def _tell_loggers(self, trainer: pl.Trainer) -> None:
        """Once a file is there: some upload it."""
        io = self._io(trainer)
        if self._untold and trainer.is_global_zero and not io.is_saving() and not io.has_error:
            self._untold, self._errors_in_a_row = False, 0
            for logger in trainer.loggers:
                logger.after_save_checkpoint(proxy(self))

    def _io(self, trainer: pl.Trainer) -> AtomicCheckpointIO:
        io = trainer.strategy.checkpoint_io
        assert isinstance(io, AtomicCheckpointIO)
        return io
