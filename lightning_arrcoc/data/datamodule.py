"""Loaders over any source of visual questions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch.utils.data import DataLoader

from lightning_arrcoc.data.collate import Collator, Encode, LookUp
from lightning_arrcoc.data.sample import Source
from lightning_arrcoc.data.staged import StagedDataset

if TYPE_CHECKING:
    from lightning_arrcoc.data.texture_building import Recipe

MOST_WORKERS = 8
SPLITS = ("train", "val", "test")
READ_BY = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}


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
        texture_cache: folder of textures that are measured once and read ever after; None leaves
            measuring to the model.
        cached_splits: whose textures go there. Leave out a split that hardly shows an image twice,
            such as one drawn anew or augmented: there the model measures.
        build_textures: measure what the cache lacks before a run begins, on rank zero of each
            node. False reads it as it is; what it lacks is measured in the loaders, every time.
        recipe: how textures come about; None takes that of the model being trained.

    Raises:
        ValueError: a batch size below one, a negative number of workers, or a split that there
            is not.
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
        texture_cache: str | Path | None = None,
        cached_splits: Sequence[str] = SPLITS,
        build_textures: bool = True,
        recipe: Recipe | None = None,
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
        if set(cached_splits) - set(SPLITS):
            raise ValueError(
                f"cached_splits={list(cached_splits)}; choose from {', '.join(SPLITS)}."
            )
        self.train, self.val, self.test = train, val, test
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size or batch_size
        self.num_workers = _cores() if num_workers is None else num_workers
        self.pack_turns = pack_turns
        self.texture_cache = texture_cache
        self.cached_splits = tuple(cached_splits)
        self.build_textures = build_textures
        self._processor, self._recipe = processor, recipe
        self._built: set[str] = set()

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

    @property
    def recipe(self) -> Recipe:
        """How textures come about.

        Raises:
            MisconfigurationException: none was given and the model has none.
            ValueError: the model's cannot be cached.
        """
        if self._recipe is not None:
            return self._recipe
        module: Any = self.trainer.lightning_module if self.trainer else None
        if not hasattr(module, "texture_recipe"):
            raise MisconfigurationException(
                "VqaDataModule has a texture_cache, and the LightningModule does not say how "
                "textures come about. Pass VqaDataModule(recipe=...), give the module a method "
                "`texture_recipe(processor)`, or leave texture_cache out."
            )
        recipe: Recipe = module.texture_recipe(self.processor)
        return recipe

    def cached_sources(self, splits: Sequence[str] = SPLITS) -> list[Source]:
        """Those of some splits whose textures are to be cached."""
        given = {"train": self.train, "val": self.val, "test": self.test}
        return [
            source
            for split in splits
            if split in self.cached_splits and (source := given[split]) is not None
        ]

    def prepare_data(self) -> None:
        """Measure what the cache lacks for this run."""
        if self.texture_cache is None or not self.build_textures:
            return
        from lightning_arrcoc.data.texture_building import build_textures, shown_progress

        fn = self.trainer.state.fn if self.trainer else None
        splits = [s for s in (READ_BY[fn] if fn else SPLITS) if s not in self._built]
        sources = self.cached_sources(splits)
        if sources:
            with shown_progress(sources) as advance:
                build_textures(
                    self.texture_cache, sources, self.recipe, workers=self.num_workers,
                    advance=advance, tell=rank_zero_info,
                )  # fmt: skip
        self._built.update(splits)

    def setup(self, stage: str) -> None:
        """Refuse a cache that cannot be read, before workers do.

        Raises:
            FileNotFoundError: there is none.
            ValueError: another version wrote it, or it is damaged beyond an entry.
        """
        if self.texture_cache is not None and self.cached_sources(READ_BY[stage]):
            from lightning_arrcoc.data.texture_cache import TextureCache

            TextureCache(self.texture_cache).check()

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
                self.processor,
                for_measuring=not shuffle,
                pack=shuffle and self.pack_turns,
                textures=self._textures_of(split),
            ),
            **options,
        )

    def _textures_of(self, split: str) -> LookUp | None:
        if self.texture_cache is None or split not in self.cached_splits:
            return None
        from lightning_arrcoc.data.cached_textures import CachedTextures

        return CachedTextures(self.texture_cache, self.recipe)


def _cores() -> int:
    """Cores that this process may use, at most eight; macOS and Windows cannot say so exactly."""
    allowed = getattr(os, "sched_getaffinity", None)
    return min(MOST_WORKERS, len(allowed(0)) if allowed else os.cpu_count() or 1)
