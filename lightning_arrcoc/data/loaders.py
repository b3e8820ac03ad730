"""Loaders of a data module, each made once and kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.accelerators import CUDAAccelerator
from torch.utils.data import DataLoader

from lightning_arrcoc.data.collate import Collator
from lightning_arrcoc.data.order import Drawn, EpochLoader, EpochOrder, EvenLoader, EvenOrder, Place
from lightning_arrcoc.data.sample import Source
from lightning_arrcoc.data.staged import StagedDataset


class Loading(NamedTuple):
    """How samples become batches.

    Attributes:
        batch_size: samples.
        seed: of order and of what sources draw.
        workers: processes.
        prefetch_factor: batches that each of them has ready.
        pin_memory: for a CUDA device.
        processes: training processes that share the samples.
        rank: which of them this one is.
    """

    batch_size: int
    seed: int
    workers: int = 0
    prefetch_factor: int = 2
    pin_memory: bool = False
    processes: int = 1
    rank: int = 0


class Kept:
    """Loaders by split, each made anew only where something it depends on has changed."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[Hashable, DataLoader[Any]]] = {}

    def get(
        self, split: str, depends_on: Hashable, make: Callable[[], DataLoader[Any]]
    ) -> DataLoader[Any]:
        """The split's loader.

        Args:
            split: its name.
            depends_on: where this equals that of the last time, so does the loader.
            make: makes it.
        """
        if split not in self._made or self._made[split][0] != depends_on:
            self._made[split] = depends_on, make()
        return self._made[split][1]


def loader(
    source: Source, collate: Collator, how: Loading, place: Callable[[], Place] | None
) -> DataLoader[Any]:
    """A loader of batches.

    Args:
        source: what is drawn from.
        collate: makes a batch of samples.
        how: they are loaded.
        place: of a run in training, which takes the samples in a new order every epoch and goes on
            from there; None takes all of them in their own order.
    """
    dataset = Drawn(source, how.seed)
    options: dict[str, Any] = {
        "batch_size": how.batch_size, "collate_fn": collate, "num_workers": how.workers,
        "pin_memory": how.pin_memory,
        # One of its own, so that the random numbers of the process are left alone.
        "generator": torch.Generator().manual_seed(how.seed % 2**63),
    }  # fmt: skip
    if how.workers:
        options["prefetch_factor"] = how.prefetch_factor
        options["persistent_workers"] = workers_stay(source, how.workers)
    if place is None and how.processes > 1:
        return EvenLoader(dataset, sampler=EvenOrder(source, how.processes, how.rank), **options)
    if place is None:
        return DataLoader(dataset, **options)
    order = EpochOrder(
        source, place, batch_size=how.batch_size, seed=how.seed,
        num_replicas=how.processes, rank=how.rank,
    )  # fmt: skip
    return EpochLoader(dataset, sampler=order, drop_last=len(order) >= how.batch_size, **options)


def workers_stay(source: Source, workers: int) -> bool:
    """Whether workers outlive an epoch: they keep what they were made with, and stages change."""
    return workers > 0 and not isinstance(source, StagedDataset)


def may_pin(trainer: Any, workers_stay: bool) -> bool:
    """Whether memory may be pinned: for CUDA alone.

    Not where loaders are asked for anew while their workers stay, which torch cannot do reliably
    (pytorch/pytorch#91252).
    """
    if trainer is None:
        return False
    renewed = workers_stay and getattr(trainer, "reload_dataloaders_every_n_epochs", 0) > 0
    return isinstance(trainer.accelerator, CUDAAccelerator) and not renewed


def place_of(trainer: pl.Trainer) -> Place:
    """Where a run in training stands."""
    stop = trainer.num_training_batches
    return Place(
        trainer.current_epoch,
        trainer.fit_loop.batch_idx + 1,
        None if math.isinf(stop) else int(stop),
    )


def shared_by(trainer: pl.Trainer | None) -> dict[str, int]:
    """How many processes share the samples, and which one this is, for `Loading`."""
    kwargs = getattr(trainer, "distributed_sampler_kwargs", None)
    return {"processes": kwargs["num_replicas"], "rank": kwargs["rank"]} if kwargs else {}
