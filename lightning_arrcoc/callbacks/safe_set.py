"""Drop-ins for any project, without a line in it."""

from __future__ import annotations

import lightning.pytorch as pl

from lightning_arrcoc.callbacks.for_trainer import ForTrainer
from lightning_arrcoc.callbacks.gradient_monitor import GradientMonitor
from lightning_arrcoc.callbacks.memory_guard import MemoryGuard
from lightning_arrcoc.callbacks.memory_monitor import MemoryMonitor
from lightning_arrcoc.callbacks.oom_guard import OOMGuard


class SafeSet(ForTrainer):
    """Adds to a run, as it is set up, what observes any project and changes no number in it.

    What the Trainer has already, or a subclass of it, is not added again. Logs nothing itself.

    ======================================  ======================================================
    in                                      why
    ======================================  ======================================================
    ``GradientMonitor()``                   observes; skips nothing that was not asked for
    ``MemoryMonitor()``                     observes
    ``MemoryGuard(gc_every_n_steps=None)``  warns, and saves when memory is nearly gone; Python goes
                                            on collecting cycles as the project is used to
    ``OOMGuard()``                          explains the end of a run that ends anyway
    ======================================  ======================================================

    ======================================  ======================================================
    out                                     why
    ======================================  ======================================================
    ``AtomicCheckpoint``                    Lightning has put in its own `ModelCheckpoint` before it
                                            asks; two would save to one folder. It takes signals,
                                            and refuses checkpoints that hold objects
    ``OverfittingDetector``                 which metric is judged, the project has to say
    ``MemorySnapshot``                      costs, and writes files
    ``MetricsProgressBar``                  a Trainer has one bar
    ``CurriculumAdvance``                   needs a data module that is made for it
    plugins, loggers                        change what is computed or written
    ======================================  ======================================================
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        added = [
            one
            for one in (
                GradientMonitor(),
                MemoryMonitor(),
                MemoryGuard(gc_every_n_steps=None),
                OOMGuard(),
            )
            if not any(isinstance(other, type(one)) for other in callbacks)
        ]
        # Right behind this one: Lightning comes to them next, and to checkpoint callbacks last.
        place = callbacks.index(self) + 1
        callbacks[place:place] = added
