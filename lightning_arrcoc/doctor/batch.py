"""Finds the largest batches that fit, for training and for validation."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.plugins.environments import LightningEnvironment
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from lightning_arrcoc.callbacks.memory_monitor import MemoryMonitor
from lightning_arrcoc.memory.cause import is_out_of_memory
from lightning_arrcoc.memory.freeing import empty_caches, let_go
from lightning_arrcoc.memory.peaks import peaks_of, use
from lightning_arrcoc.memory.readings import GIB, HighWater
from lightning_arrcoc.targets import build

Phase = Literal["train", "validation"]
PHASES: tuple[Phase, ...] = ("train", "validation")
KEYS = {"train": "data.batch_size", "validation": "data.val_batch_size"}
NEAR = 16
"""Chosen by us: a batch within a sixteenth of the largest is near enough for another try to cost
more than it brings."""


class Trial(NamedTuple):
    """A batch that was tried.

    Attributes:
        phase: train or validation.
        samples: in the batch.
        peak: bytes; None where it ran out of memory, or was sure to.
        fits: on all ranks, with the headroom.
    """

    phase: Phase
    samples: int
    peak: int | None
    fits: bool


def examine(config: DictConfig) -> int:
    """Print what was tried and the largest that fit as overrides; 1 where not one sample does."""
    if not 0 <= config.headroom < 1:
        raise ValueError(f"headroom={config.headroom}; expected a share from 0 to below 1.")
    rank = _meet()
    trying = Trying(config)
    budget = int(trying.capacity * (1 - config.headroom))
    tried: list[Trial] = []
    best = {
        phase: search(partial(trying, phase), phase, budget, config.most, tried) for phase in PHASES
    }
    if rank == 0:
        console = Console()
        console.print(as_table(tried, trying.capacity, config.headroom))
        if all(best.values()):
            words = (f"{KEYS[phase]}={samples}" for phase, samples in best.items())
            console.print("Best:", *words, soft_wrap=True)
        else:
            console.print("Not one sample fits: choose a smaller model or fewer pixels.")
    return 0 if all(best.values()) else 1


def search(
    attempt: Callable[[int], int | None], phase: Phase, budget: int, most: int, tried: list[Trial]
) -> int:
    """The largest batch within the budget, to a sixteenth; 0 where one sample is too many.

    Sizes double until one fails, then the gap is halved. One whose peak is sure to pass the budget
    by a line through the two largest before it is not run at all: on a CPU that would end
    more than the trial.

    Args:
        attempt: runs a batch of so many samples; its peak in bytes, None where memory ran out.
        phase: for the record.
        budget: bytes.
        most: samples; larger batches are not tried.
        tried: is added to.
    """
    known: dict[int, int] = {}
    good, bad, samples = 0, most + 1, 1
    while True:
        expected = _extrapolated(known, samples)
        peak = None if expected is not None and expected > budget else attempt(samples)
        fits = _on_all_ranks(peak is not None and peak <= budget)
        tried.append(Trial(phase, samples, peak, fits))
        if peak is not None:
            known[samples] = peak
        good, bad = (samples, bad) if fits else (good, samples)
        if bad - good <= max(1, good // NEAR):
            return good
        samples = min(2 * good, most) if bad > most else (good + bad) // 2


def _extrapolated(known: dict[int, int], samples: int) -> int | None:
    """By a line through the two largest; None where there are no two below, or it falls."""
    below = sorted(size for size in known if size < samples)[-2:]
    if len(below) < 2:
        return None
    first, last = below
    slope = (known[last] - known[first]) / (last - first)
    return int(known[last] + max(0.0, slope) * (samples - last))


class Trying:
    """Runs single batches, on one device and without other ranks: none waits for one that fails."""

    def __init__(self, config: DictConfig) -> None:
        pl.seed_everything(config.seed, workers=True, verbose=False)
        self.config = config
        self.module = build(config.training, model=build(config.model))
        asked = build(config.trainer, logger=False, callbacks=None, enable_checkpointing=False)
        self.on_cuda = isinstance(asked.accelerator, CUDAAccelerator)
        # DDP holds the gradients a second time, in its buckets.
        trained = (p for p in self.module.parameters() if p.requires_grad)
        self.buckets = sum(p.nbytes for p in trained) if asked.world_size > 1 else 0
        self.place = int(os.environ.get("LOCAL_RANK", "0")) if self.on_cuda else None
        device = torch.device("cpu") if self.place is None else torch.device("cuda", self.place)
        if not self.on_cuda:
            use(HighWater(), device)
        memory = peaks_of(device).memory
        capacity, everybody, own = (
            memory.capacity(), memory.used_by_all(), memory.used_by_process(),
        )  # fmt: skip
        assert capacity is not None
        others = 0 if everybody is None or own is None else max(0, everybody - own)
        self.capacity = capacity - others

    def __call__(self, phase: Phase, samples: int) -> int | None:
        """The peak of two steps, or of a validation batch after one, in bytes."""
        try:
            return self._run(phase, samples)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            let_go(error)
            return None
        finally:
            for parameter in self.module.parameters():
                parameter.grad = None
            self.module.cpu()
            empty_caches()
            gc.collect()

    def _run(self, phase: Phase, samples: int) -> int:
        monitor = MemoryMonitor(summary=False)
        training = phase == "train"
        data = build(self.config.data)
        data.num_workers, data.pin_memory = 0, False
        data.batch_size, data.val_batch_size = (samples, 1) if training else (1, samples)
        trainer = build(
            self.config.trainer, logger=False, callbacks=[monitor], enable_checkpointing=False,
            enable_progress_bar=False, plugins=[LightningEnvironment()],
            devices=1 if self.place is None else [self.place], strategy="auto",
            max_steps=2 if training else 1, limit_train_batches=2 if training else 1,
            limit_val_batches=0 if training else 1, num_sanity_val_steps=0, max_epochs=1,
            val_check_interval=1.0, check_val_every_n_epoch=1, accumulate_grad_batches=1,
        )  # fmt: skip
        trainer.fit(self.module, data)
        return monitor.stretches[phase].peak + self.buckets


def _meet() -> int:
    """This process's rank; those that torchrun has started find each other."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "MASTER_ADDR" in os.environ:
        dist.init_process_group("gloo")
        return dist.get_rank()
    return 0


def _on_all_ranks(fits: bool) -> bool:
    if not dist.is_available() or not dist.is_initialized():
        return fits
    word = torch.tensor(int(fits))
    dist.all_reduce(word, dist.ReduceOp.MIN)
    return bool(word)


def as_table(tried: list[Trial], capacity: int, headroom: float) -> Table:
    """A row for each trial."""
    title = f"Peak memory of a batch; {capacity / GIB:.1f} GiB, of which {headroom:.0%} stay free"
    table = Table("", "samples", "peak (GiB)", "fits", title=title, title_justify="left")
    for phase, samples, peak, fits in tried:
        words = "too much" if peak is None else f"{peak / GIB:.2f}"
        table.add_row(phase, str(samples), words, "yes" if fits else "no")
    return table
