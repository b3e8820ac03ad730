"""Memory of a run, step by step and phase by phase."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from rich.console import Console

from lightning_arrcoc.callbacks.for_trainer import ForTrainer
from lightning_arrcoc.callbacks.unseen import say_unseen
from lightning_arrcoc.memory.peaks import Peaks, Span, peaks_of
from lightning_arrcoc.memory.ranks import Ranks
from lightning_arrcoc.memory.readings import GIB, resident_bytes
from lightning_arrcoc.memory.stretches import Stretches

PHASES = ("train", "validation", "checkpoint", "sanity check")
COUNTS = ("retries", "ooms")
FEW = ("allocated_peak_gib", "reserved_peak_gib", "device_gib", "rss_gib", "retries", "ooms")


class MemoryMonitor(ForTrainer):
    """Observes memory: a line of figures each `log_every_n_steps`, and a table at the end of fit.

    Nothing waits for the device: the allocator counts on the host, as it hands out. Its peak starts
    anew at every reading, so `torch.cuda.max_memory_allocated` no longer spans the run. Of several
    processes the highest figure is logged, and whose it is.

    =============================  =============================================================
    logged                         what, since the last line
    =============================  =============================================================
    memory/allocated_peak_gib      the most that tensors held; CUDA and MPS
    memory/reserved_peak_gib       the most that torch took from the device for them
    memory/device_gib              taken on the device now, by all processes (NVML)
    memory/rss_gib                 main memory of the process now
    memory/retries, memory/ooms    allocations that needed the cache emptied, that failed
    memory/peak_rank               whose `allocated_peak_gib` it is (`rss_gib` on a CPU); of
                                   several processes
    =============================  =============================================================

    With ``detail=True`` also, and with several processes a ``..._rank`` for every key:

    =============================  =============================================================
    memory/fragmentation_gib       reserved minus allocated, at their peaks
    memory/process_gib             taken on the device by this process (NVML)
    memory/train_peak_gib          the highest peak of a phase so far; likewise validation,
                                   checkpoint and sanity_check. On a CPU, of the whole process,
                                   read once a step
    =============================  =============================================================

    What cannot be seen (no NVIDIA driver, NVML refused, a container that hides processes, a CPU)
    is said once, and its keys are left out.

    Args:
        detail: log all keys.
        summary: print the table of phases and of what `track` was put around, at the end of fit.
    """

    def __init__(self, detail: bool = False, summary: bool = True) -> None:
        self.detail, self.summary = detail, summary
        self.stretches = Stretches()
        self._ranks = Ranks()
        self._peaks: Peaks | None = None
        self._window: Span | None = None
        self._stretch: Span | None = None  # of the phase under way
        self._phase = "train"
        self._before = 0
        self._saving = False  # a checkpoint, since the last hook
        self._counted = (0, 0)
        self._logged_step = 0

    def identity(self) -> dict[str, Any]:
        return {"detail": self.detail}

    @contextmanager
    def track(self, label: str) -> Iterator[None]:
        """Put around something that a run does; a row of the table bears its label."""
        peaks = self._peaks or peaks_of(
            torch.device("cuda" if torch.cuda.is_available() else "cpu")
        )
        span = peaks.span()
        before = peaks.last.allocated
        try:
            yield
        finally:
            peak = span.take().allocated
            self.stretches.end(label, before, peak, peaks.last.allocated)

    # ----------------------------------------------------------------------------- a run begins

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._peaks = peaks_of(trainer.strategy.root_device)
        say_unseen(self._peaks.memory)
        self._ranks.start()
        self.stretches.clear()
        self._window, self._stretch = self._peaks.span(), self._peaks.span()
        reading = self._peaks.last
        self._before, self._phase, self._saving = reading.allocated, "train", False
        self._counted = (reading.retries, reading.ooms)
        self._logged_step = trainer.global_step

    # ------------------------------------------------------------------------------------ phases

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._enter("sanity check")

    def on_sanity_check_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._enter("train")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._saving:
            self._enter("train")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._enter("validation")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._enter("train")

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # Gathering it came before this hook, writing comes after; both lie between two others.
        self._saving = True

    def _enter(self, phase: str) -> None:
        """End the phase under way and begin another, or the same anew."""
        if self._peaks is None or self._stretch is None:
            return  # validation outside fit
        peak = self._stretch.take().allocated
        after = self._peaks.last.allocated
        left = "checkpoint" if self._saving else self._phase
        self.stretches.end(left, self._before, peak, after)
        self._before, self._phase, self._saving = after, phase, False

    # ------------------------------------------------------------------------------------- a line

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._enter("train")
        step, every = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not every or step % every or step == self._logged_step:
            return
        self._logged_step = step
        values = self._chosen(self._figures())
        # Tensors on the CPU: Lightning would move a number to the device, and wait for it.
        tensors = {f"memory/{key}": torch.tensor(value) for key, value in values.items()}
        pl_module.log_dict(tensors, on_step=True, on_epoch=False, rank_zero_only=False)

    def _figures(self) -> dict[str, float | None]:
        """The same keys on all ranks, whatever each can see."""
        assert self._peaks is not None
        assert self._window is not None
        memory, peak = self._peaks.memory, self._window.take()
        reading = self._peaks.last
        since = (reading.retries - self._counted[0], reading.ooms - self._counted[1])
        self._counted = (reading.retries, reading.ooms)
        in_bytes = {
            "allocated_peak_gib": peak.allocated if memory.has_allocator else None,
            "reserved_peak_gib": peak.reserved if memory.has_allocator else None,
            "device_gib": memory.used_by_all(),
            "rss_gib": resident_bytes(),
        }
        if self.detail:
            slack = peak.reserved - peak.allocated
            in_bytes["fragmentation_gib"] = slack if memory.has_allocator else None
            in_bytes["process_gib"] = memory.used_by_process() if memory.has_allocator else None
            for phase in PHASES:
                known = self.stretches.get(phase)
                key = f"{phase.replace(' ', '_')}_peak_gib"
                in_bytes[key] = None if known is None else known.peak
        found: dict[str, float | None] = {
            key: None if value is None else value / GIB for key, value in in_bytes.items()
        }
        counts = zip(COUNTS, since, strict=True)
        return found | {key: value if memory.has_allocator else None for key, value in counts}

    def _chosen(self, figures: dict[str, float | None]) -> dict[str, float]:
        """What is logged of them: the highest of all ranks, and whose it is."""
        values: dict[str, float] = {}
        for key, (value, rank) in zip(
            figures, self._ranks.highest([*figures.values()]), strict=True
        ):
            if value is None:
                continue
            values[key] = float(value)
            if self.detail and not self._ranks.alone:
                values[f"{key}_rank"] = float(rank)
            if not self._ranks.alone and key in ("allocated_peak_gib", "rss_gib"):
                values.setdefault("peak_rank", float(rank))
        return values

    # ------------------------------------------------------------------------------- a run ends

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._enter("train")
        if self.summary and trainer.is_global_zero and self._peaks is not None:
            Console().print(self.stretches.table(f"Memory on {self._peaks.memory.name}"))
        self._release()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._release()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._release()

    def _release(self) -> None:
        self._ranks.stop()
        self._peaks = self._window = self._stretch = None
