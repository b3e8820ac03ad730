"""Says why memory ran out, and keeps the evidence."""

from __future__ import annotations

import warnings
from collections import deque
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import lightning.pytorch as pl

from lightning_arrcoc.events import record
from lightning_arrcoc.memory import evidence, history
from lightning_arrcoc.memory.cause import Shortage, asked_and_free, likely_cause
from lightning_arrcoc.memory.peaks import peaks_of
from lightning_arrcoc.memory.splitting import CannotSplitError, samples
from lightning_arrcoc.memory.staircase import Growth, Staircase


class Witness:
    """Watches the steps that go well, to know what is unusual about one that does not.

    Args:
        reports: evidence is written so many times.
        entries: of the allocator's history; 0 records none.
    """

    def __init__(self, reports: int, entries: int) -> None:
        self.reports, self.entries = reports, entries
        self._forget()

    def _forget(self) -> None:
        self._written = 0
        self._staircase = Staircase()
        self._growth: Growth | None = None
        self._samples: deque[int] = deque(maxlen=50)

    def start(self) -> None:
        """A run begins."""
        self._forget()
        history.watch_failures()
        if self.entries:
            history.start(self, self.entries)

    def stop(self) -> None:
        history.stop(self)

    def step(self, trainer: pl.Trainer, batch: Any) -> None:
        """One went well."""
        allocated = peaks_of(trainer.strategy.root_device).fold().allocated
        self._growth = self._staircase.add(allocated)
        with suppress(CannotSplitError):
            self._samples.append(samples(batch, usual_samples(trainer)))

    def tell(
        self, trainer: pl.Trainer, module: pl.LightningModule, error: BaseException, phase: str,
        batch: Any,
    ) -> str:  # fmt: skip
        """Say why, once it is sure that all that can be seen is written.

        Returns:
            The likely cause.
        """
        failure = history.last_failure()
        shortage = self._shortage(trainer, module, error, phase, batch, failure)
        cause = likely_cause(shortage)
        folder, paths = self._folder(trainer), []
        if self._written < self.reports:
            self._written += 1
            tensors, by_module = evidence.largest(module, trainer.optimizers, batch, error)
            details = {
                "error": str(error), "batch": evidence.shapes(batch), "mib_by_module": by_module,
                "largest": [one._asdict() for one in tensors], "step": trainer.global_step,
                "rank": trainer.global_rank,
            }  # fmt: skip
            try:
                snapshot = failure.snapshot if failure else history.take()
                paths = evidence.write(folder, cause, shortage, details, snapshot)
            except OSError as refusal:
                warnings.warn(f"The evidence could not be written: {refusal}", stacklevel=2)
        record(
            trainer, "memory/ran_out", cause=cause, phase=phase, asked=shortage.asked,
            free=shortage.free, paths=[str(path) for path in paths],
        )  # fmt: skip
        where = f" Evidence: {folder}" if paths else ""
        rank = f"Rank {trainer.global_rank}: out" if trainer.world_size > 1 else "Out"
        warnings.warn(
            f"{rank} of memory at step {trainer.global_step}. {cause}{where}", stacklevel=2
        )
        return cause

    def _shortage(
        self, trainer: pl.Trainer, module: pl.LightningModule, error: BaseException, phase: str,
        batch: Any, failure: history.Failure | None,
    ) -> Shortage:  # fmt: skip
        peaks = peaks_of(trainer.strategy.root_device)
        memory, reading = peaks.memory, peaks.fold()
        everybody, own = memory.used_by_all(), memory.used_by_process()
        asked, free = asked_and_free(str(error))
        here = None
        with suppress(CannotSplitError):
            here = samples(batch, usual_samples(trainer))
        return Shortage(
            asked=failure.asked if failure else asked,
            free=failure.free if failure else free,
            capacity=memory.capacity(),
            allocated=reading.allocated if memory.has_allocator else 0,
            reserved=reading.reserved if memory.has_allocator else 0,
            others=None if everybody is None or own is None else max(0, everybody - own),
            phase=phase,
            module=evidence.under_way(error, module),
            samples=here,
            usual_samples=median(self._samples) if self._samples else None,
            growth=self._growth,
        )

    def _folder(self, trainer: pl.Trainer) -> Path:
        name = f"step={trainer.global_step}-rank={trainer.global_rank}"
        if self._written:
            name += f"-{self._written + 1}"
        return Path(trainer.default_root_dir) / "oom" / name


def usual_samples(trainer: pl.Trainer) -> int | None:
    """What the training loader puts in a batch."""
    size = getattr(trainer.train_dataloader, "batch_size", None)
    return size if isinstance(size, int) else None
