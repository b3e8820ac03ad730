"""Asking for a checkpoint in an emergency, whoever saves it."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from lightning_arrcoc.callbacks.checkpointing.emergency import Agreement


class EmergencySave:
    """Has a checkpoint saved at the end of a step, by all ranks at the same one.

    A checkpoint callback that takes requests (`AtomicCheckpoint.request_save`) is asked; where
    there is none, the trainer saves `checkpoints/emergency-step=N.ckpt` in its root folder.
    """

    def __init__(self) -> None:
        self._agreement = Agreement()
        self._asked = False

    def start(self) -> None:
        """A collective of its own: for all ranks, at the start of a run."""
        self._asked = False
        self._agreement.start()

    def ask(self, trainer: pl.Trainer, reason: str) -> None:
        """For one rank alone, within a step."""
        for callback in trainer.checkpoint_callbacks:
            request = getattr(callback, "request_save", None)
            if callable(request):
                request(reason)
                return
        self._asked = True

    def at_step_boundary(self, trainer: pl.Trainer) -> None:
        """Save what any rank has asked for; all of them come here in every step."""
        asked, self._asked = self._asked, False
        (agreed,) = self._agreement.exchange([asked])
        if agreed and not getattr(trainer, "fast_dev_run", False):
            name = f"emergency-step={trainer.global_step}.ckpt"
            path = Path(trainer.default_root_dir) / "checkpoints" / name
            trainer.save_checkpoint(path)
            rank_zero_info(f"Saved {path}.")

    def stop(self) -> None:
        self._agreement.stop()
