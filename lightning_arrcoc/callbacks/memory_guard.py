"""Memory kept low, and a word before it runs out."""

from __future__ import annotations

import warnings
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_arrcoc.callbacks.arguments import check_counts, is_number
from lightning_arrcoc.callbacks.checkpointing.asking import EmergencySave
from lightning_arrcoc.callbacks.for_trainer import ForTrainer
from lightning_arrcoc.callbacks.unseen import say_unseen
from lightning_arrcoc.events import record
from lightning_arrcoc.memory.collecting import Collecting
from lightning_arrcoc.memory.freeing import empty_caches
from lightning_arrcoc.memory.leaks import LeakWatch
from lightning_arrcoc.memory.levels import Levels
from lightning_arrcoc.memory.peaks import Peaks, Span, peaks_of
from lightning_arrcoc.memory.readings import GIB

OTHERS_EVERY_N_STEPS = 20
"""Chosen by us: the driver takes up to a millisecond to tell what other processes hold."""


class MemoryGuard(ForTrainer):
    """Changes when memory is tidied up; warns, and asks for a checkpoint, before it runs out.

    Logs nothing; events tell what happened (`memory/cleaned`, `memory/warned`, `memory/critical`,
    `memory/leaked`). Five layers, each of which None leaves out:

    - cleanup: where training, validation and sanity check begin and end, cycles are collected and
      the allocator's cache is handed back, if it holds `cleanup_gib` unused, and at most every
      `cleanup_every_n_steps`;
    - `warning`: a warning once the peak of a step passes it;
    - `critical`: a checkpoint is asked for as well: of `AtomicCheckpoint`, or else the trainer
      saves one at the end of the step. Both speak again when memory has been below them;
    - leaks: what is allocated at the end of each step is watched (`Staircase`); steady growth is
      named with its rate, the steps that are left, the tensors that became more and who keeps
      them, and once more whenever it has doubled. Growth that a collection ends is no leak;
    - collecting: Python does not collect cycles of its own accord while the run lasts, but at fixed
      steps, the same on all ranks, so that none waits for another's pause; old ones at the end of
      an epoch. Its own setting comes back at the end.

    The peak of a step is the most that its tensors held, and what others have taken of the device;
    on a CPU the memory of the process, of that of the machine or container.

    Args:
        warning, critical: shares of the device up to 1, or GiB above; two of a sort.
        cleanup_gib: unused memory that is worth handing back.
        cleanup_every_n_steps: at most so often.
        leak_window: steps that are looked at together, 20 or more.
        gc_every_n_steps: when cycles are collected.

    Raises:
        ValueError: thresholds out of order or of different sorts, or a number that is none.
    """

    def __init__(
        self,
        warning: float | None = 0.85,
        critical: float | None = 0.95,
        cleanup_gib: float | None = 1.0,
        cleanup_every_n_steps: int = 100,
        leak_window: int | None = 40,
        gc_every_n_steps: int | None = 50,
    ) -> None:
        if cleanup_gib is not None and not (is_number(cleanup_gib) and cleanup_gib >= 0):
            raise ValueError(f"cleanup_gib={cleanup_gib!r}; expected 0 or more, or None for never.")
        check_counts(1, cleanup_every_n_steps=cleanup_every_n_steps)
        if leak_window is not None:
            check_counts(20, leak_window=leak_window)
        if gc_every_n_steps is not None:
            check_counts(1, gc_every_n_steps=gc_every_n_steps)
        self.warning, self.critical, self.leak_window = warning, critical, leak_window
        self.cleanup_gib, self.cleanup_every_n_steps = cleanup_gib, cleanup_every_n_steps
        self._levels = Levels(warning, critical)
        self._collecting = Collecting(gc_every_n_steps)
        self._saving = EmergencySave()
        self._leaks: LeakWatch | None = None
        self._peaks: Peaks | None = None
        self._span: Span | None = None
        self._others = self._batches = self._seen_step = 0
        self._cleaned_step: int | None = None

    def identity(self) -> dict[str, Any]:
        return {"warning": self.warning, "critical": self.critical}

    # ----------------------------------------------------------------------------- a run begins

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self._peaks = peaks_of(trainer.strategy.root_device)
        memory = self._peaks.memory
        capacity, name = memory.capacity(), self._levels.too_large(memory.capacity())
        if name is not None and capacity is not None:
            raise MisconfigurationException(
                f"MemoryGuard({name}={getattr(self, name)}) is in GiB, but {memory.name} has "
                f"{capacity / GIB:.1f}. Lower it, or name a share of the device, up to 1."
            )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self._peaks is not None
        self._levels = Levels(self.warning, self.critical)
        self._leaks = LeakWatch(self.leak_window) if self.leak_window else None
        self._span, self._cleaned_step = self._peaks.span(), None
        self._batches, self._seen_step = 0, trainer.global_step
        say_unseen(self._peaks.memory)
        self._saving.start()
        self._collecting.start()

    # ---------------------------------------------------------------------------- a step is done

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._watch_levels(trainer)
        if trainer.global_step != self._seen_step:  # the same point of each step
            self._seen_step = trainer.global_step
            self._collecting.step()
            self._watch_leaks(trainer, pl_module)
        self._saving.at_step_boundary(trainer)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._collecting.step()

    def _watch_levels(self, trainer: pl.Trainer) -> None:
        assert self._peaks is not None
        assert self._span is not None
        memory, used = self._peaks.memory, self._span.take().allocated
        if self._batches % OTHERS_EVERY_N_STEPS == 0:
            everybody = memory.used_by_all()
            reserved = self._peaks.last.reserved
            self._others = 0 if everybody is None else max(0, everybody - reserved)
        self._batches += 1
        used, capacity = used + self._others, memory.capacity()
        level = self._levels.passed(used, capacity) if capacity else None
        if level is None or capacity is None:
            return
        what = f"{_who(trainer)}A step took {used / GIB:.2f} of {capacity / GIB:.2f} GiB of memory"
        figures = {"used_gib": used / GIB, "capacity_gib": capacity / GIB}
        if level == "critical":
            record(trainer, "memory/critical", **figures)
            warnings.warn(f"{what}: a checkpoint is asked for before it runs out.", stacklevel=2)
            self._saving.ask(trainer, f"memory critical: {used / GIB:.2f} GiB")
        else:
            record(trainer, "memory/warned", **figures)
            warnings.warn(f"{what}. A smaller batch leaves more room.", stacklevel=2)

    def _watch_leaks(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self._peaks is not None
        if self._leaks is None:
            return
        peaks = self._peaks
        leak = self._leaks.step(
            trainer.global_step, peaks.last.allocated, lambda: peaks.fold().allocated,
            pl_module.parameters, peaks.memory.capacity(),
        )  # fmt: skip
        if leak is not None:
            record(
                trainer, "memory/leaked", bytes_per_step=leak.bytes_per_step,
                steps_left=leak.steps_left, copies=leak.copies,
                grown=[str(one) for one in leak.grown],
            )  # fmt: skip
            warnings.warn(f"{_who(trainer)}{leak}", stacklevel=2)

    # ----------------------------------------------------------------------------------- cleanup

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._collecting.all()
        self._clean(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._clean(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._clean(trainer)

    def _clean(self, trainer: pl.Trainer) -> None:
        if self._span is None or self._peaks is None or self.cleanup_gib is None:
            return  # outside fit
        step, last = trainer.global_step, self._cleaned_step
        reading = self._peaks.fold()
        unused = reading.reserved - reading.allocated
        too_soon = last is not None and step - last < self.cleanup_every_n_steps
        if too_soon or unused == 0 or unused < self.cleanup_gib * GIB:
            return
        self._cleaned_step = step
        empty_caches()
        self._peaks.memory.empty_cache()
        freed = reading.reserved - self._peaks.fold().reserved
        record(trainer, "memory/cleaned", freed_gib=freed / GIB)

    # ------------------------------------------------------------------------------- a run ends

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._release()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._release()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._release()

    def _release(self) -> None:
        self._collecting.stop()
        self._saving.stop()
        self._leaks = self._span = self._peaks = None


def _who(trainer: pl.Trainer) -> str:
    return f"Rank {trainer.global_rank}: " if trainer.world_size > 1 else ""
