"""Loaders over any source of visual questions."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from lightning_arrcoc.data.collate import Collator, Encode
from lightning_arrcoc.data.questions import Questions
from lightning_arrcoc.data.sample import Source
from lightning_arrcoc.data.skipping import leave_out_bad, write_skipped
from lightning_arrcoc.data.staged import StagedDataset

MOST_WORKERS = 8
SKIPPED = "skipped.jsonl"  # in the folder of the run


class VqaDataModule(pl.LightningDataModule):
    """Feeds visual questions to a model, encoded by that model's own processor.

    Args:
        train, val, test: sources of `Sample`: map-style data sets or lists. None where no command
            needs it.
        batch_size: samples a training step and device.
        val_batch_size: the same for measuring, which needs less memory; None takes `batch_size`.
        num_workers: loader processes; None takes one a core, at most 8.
        pack_turns: train on the turns of a sample as if each were the only one, which costs little
            more than a single one.
        processor: encodes conversations; None takes the `processor` of the model being trained.

    Raises:
        ValueError: a batch size below one or a negative number of workers.
    """

    def __init__(
        self,
        train: Source | None = None,
        val: Source | None = None,
        test: Source | None = None,
        *,
        batch_size: int = 32,
        val_batch_size: int | None = None,
        num_workers: int | None = None,
        pack_turns: bool = False,
        processor: Encode | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1 or (val_batch_size is not None and val_batch_size < 1):
            raise ValueError(
                f"batch_size={batch_size}, val_batch_size={val_batch_size}: must be >= 1."
            )
        if num_workers is not None and num_workers < 0:
            raise ValueError(
                f"num_workers={num_workers}; expected 0 or more, or null for one a core."
            )
        self.train, self.val, self.test = train, val, test
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size or batch_size
        self.num_workers = _cores() if num_workers is None else num_workers
        self.pack_turns = pack_turns
        self._processor = processor

    @property
    def processor(self) -> Encode:
        """What encodes conversations.

        Raises:
            MisconfigurationException: none was given and the model has none.
        """
        if self._processor is not None:
            return self._processor
        module = self.trainer.lightning_module if self.trainer else None
        processor: Encode | None = getattr(module, "processor", None)
        if processor is None:
            raise MisconfigurationException(
                "VqaDataModule has no processor, and the LightningModule offers none. Pass "
                "VqaDataModule(processor=...) or give the module a `processor` attribute."
            )
        return processor

    def setup(self, stage: str) -> None:
        """Leave out the bad samples of sources that ask for it, the same ones in every process."""
        needed = {"fit": (self.train, self.val), "validate": (self.val,)}.get(stage, (self.test,))
        sources = [source for source in questions_in(needed) if not source.is_checked]
        for source in sources:
            leave_out_bad(source, self.num_workers)
        if any(source.skipped for source in sources) and self.trainer is not None:
            self._report_skipped(Path(self.trainer.default_root_dir) / SKIPPED)

    @rank_zero_only
    def _report_skipped(self, path: Path) -> None:
        everything = questions_in((self.train, self.val, self.test))
        left_out = {skipped for source in everything for skipped in source.skipped}
        write_skipped(path, left_out)
        rank_zero_warn(f"{len(left_out)} bad samples are left out; they are listed in {path}.")

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader("train", self.train, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader("val", self.val, shuffle=False)

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader("test", self.test, shuffle=False)

    def predict_dataloader(self) -> DataLoader[Any]:
        return self._loader("test", self.test, shuffle=False)

    def _loader(self, split: str, source: Source | None, *, shuffle: bool) -> DataLoader[Any]:
        if source is None:
            raise MisconfigurationException(f"VqaDataModule was given no {split} source.")
        options: dict[str, Any] = {"num_workers": self.num_workers}
        if self.num_workers:
            options["prefetch_factor"] = 2
            options["persistent_workers"] = not isinstance(source, StagedDataset)
        return DataLoader(
            source,  # type: ignore[arg-type]  # torch names Dataset, but takes any such object
            batch_size=self.batch_size if shuffle else self.val_batch_size,
            shuffle=shuffle,
            drop_last=shuffle and len(source) >= self.batch_size,
            collate_fn=Collator(
                self.processor, for_measuring=not shuffle, pack=shuffle and self.pack_turns
            ),
            **options,
        )


def questions_in(sources: Iterable[Source | None]) -> list[Questions]:
    """Those that may hold bad samples, also where they are stages of another."""
    found: list[Questions] = []
    for source in sources:
        parts = source.stages if isinstance(source, StagedDataset) else [source]
        found += [part for part in parts if isinstance(part, Questions)]
    return found


def _cores() -> int:
    """Cores that this process may use, at most eight; macOS and Windows cannot say so exactly."""
    allowed = getattr(os, "sched_getaffinity", None)
    return min(MOST_WORKERS, len(allowed(0)) if allowed else os.cpu_count() or 1)
