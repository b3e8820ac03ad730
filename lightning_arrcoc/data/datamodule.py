"""Loaders over any source of visual questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch.utils.data import DataLoader

from lightning_arrcoc.data.borrowed import processor_of, recipe_of
from lightning_arrcoc.data.collate import Collator, Encode
from lightning_arrcoc.data.loaders import (
    Kept,
    Loading,
    loader,
    may_pin,
    place_of,
    shared_by,
    workers_stay,
)
from lightning_arrcoc.data.order import Place
from lightning_arrcoc.data.sample import Source
from lightning_arrcoc.data.skipping import (
    SKIPPED,
    Unchecked,
    leave_out_bad,
    questions_in,
    unchecked,
    write_skipped,
)
from lightning_arrcoc.data.workers import worker_count

if TYPE_CHECKING:
    from lightning_arrcoc.data.cached_textures import CachedTextures
    from lightning_arrcoc.data.missing_textures import Recipe

SPLITS = ("train", "val", "test")
READ_BY = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}


class VqaDataModule(pl.LightningDataModule):
    """Feeds visual questions to a model, encoded by that model's own processor.

    Training takes the samples in a new order every epoch, a function of `seed` and the epoch; what
    a source draws at random is one of `seed`, epoch and index. So a resumed run goes on with the
    very next batch, with any number of workers. Loaders are made once for each split, and their
    workers stay from epoch to epoch, except those of a source with stages.

    Args:
        train, val, test: sources of `Sample`: map-style data sets or lists. None where no command
            needs it.
        batch_size: samples a training step and device.
        val_batch_size: the same for measuring, which needs less memory; None takes `batch_size`.
        num_workers: loader processes of each training process; None takes one a core, at most 8,
            shared by the training processes of a machine, and none for a source of at most 16
            samples, which are encoded before workers have started.
        prefetch_factor: batches that each worker has ready.
        pin_memory: copy batches to memory that a CUDA device reads faster; None and true do so
            where there is one, and nowhere else.
        pack_turns: train on the turns of a sample as if each were the only one, which costs little
            more than a single one.
        processor: encodes conversations; None takes the `processor` of the model being trained.
        seed: of order and augmentation; None takes that of torch, which `seed_everything` sets. A
            resumed run keeps the one it began with.
        texture_cache: folder of textures that are measured once and read ever after; None leaves
            measuring to the model.
        cached_splits: whose textures go there. Leave out a split that hardly shows an image twice,
            such as one drawn anew or augmented: there the model measures.
        build_textures: measure what the cache lacks before a run begins, on rank zero of each
            node. False reads it as it is; what it lacks is measured in the loaders, every time.
        recipe: how textures come about; None takes that of the model being trained.

    Raises:
        ValueError: a batch size or prefetch factor below one, a negative number of workers or
            seed, or a split that there is not.
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
        prefetch_factor: int = 2,
        pin_memory: bool | None = None,
        pack_turns: bool = False,
        processor: Encode | None = None,
        seed: int | None = None,
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
        if prefetch_factor < 1:
            raise ValueError(f"prefetch_factor={prefetch_factor}; expected 1 or more.")
        if seed is not None and seed < 0:
            raise ValueError(f"seed={seed}; expected 0 or more.")
        if set(cached_splits) - set(SPLITS):
            raise ValueError(
                f"cached_splits={list(cached_splits)}; choose from {', '.join(SPLITS)}."
            )
        self.train, self.val, self.test = train, val, test
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size or batch_size
        self.num_workers, self.prefetch_factor = num_workers, prefetch_factor
        self.pin_memory = pin_memory
        self.pack_turns = pack_turns
        self.seed = torch.initial_seed() if seed is None else seed
        self.texture_cache = texture_cache
        self.cached_splits = tuple(cached_splits)
        self.build_textures = build_textures
        self._processor, self._recipe = processor, recipe
        self._built: set[tuple[str, ...]] = set()
        self._kept = Kept()
        self._passes_by_hand = 0

    @property
    def processor(self) -> Encode:
        """What encodes conversations.

        Raises:
            MisconfigurationException: none was given and the model has none.
        """
        return processor_of(self.trainer) if self._processor is None else self._processor

    @property
    def recipe(self) -> Recipe:
        """How textures come about.

        Raises:
            MisconfigurationException: none was given and the model has none.
            ValueError: the model's cannot be cached.
        """
        return recipe_of(self.trainer, self.processor) if self._recipe is None else self._recipe

    @property
    def _given(self) -> dict[str, Source | None]:
        return {"train": self.train, "val": self.val, "test": self.test}

    def cached_sources(self, splits: Sequence[str] = SPLITS) -> list[Source | Unchecked]:
        """Those of some splits whose textures are to be cached, stage by stage.

        Bad samples that may be left out are still among them: who draws one is told.
        """
        return unchecked(self._given[split] for split in splits if split in self.cached_splits)

    def prepare_data(self) -> None:
        """Measure what the cache lacks for this run."""
        if self.texture_cache is None or not self.build_textures:
            return
        from lightning_arrcoc.data.texture_building import build_textures, shown_progress

        fn = self.trainer.state.fn if self.trainer else None
        splits = [
            split for split in (READ_BY[fn] if fn else SPLITS) if self.cached_sources([split])
        ]
        if not splits:
            return
        cache = str(self.texture_cache), self.recipe.fingerprint
        lacking = [split for split in splits if (*cache, split) not in self._built]
        if sources := self.cached_sources(lacking):
            with shown_progress(sources) as advance:
                build_textures(
                    self.texture_cache, sources, self.recipe,
                    workers=self._workers(sum(map(len, sources))),
                    advance=advance, tell=rank_zero_info,
                )  # fmt: skip
        self._built.update((*cache, split) for split in lacking)

    def setup(self, stage: str) -> None:
        """Leave out the bad samples of sources that ask for it, the same ones in every process.

        Raises:
            FileNotFoundError: there is no texture cache, though there should be.
            ValueError: another version wrote it, or it is damaged beyond an entry.
        """
        if self.texture_cache is not None and self.cached_sources(READ_BY[stage]):
            from lightning_arrcoc.data.texture_cache import TextureCache

            TextureCache(self.texture_cache).check()  # before workers stumble over it
        needed = [self._given[split] for split in READ_BY[stage]]
        sources = [source for source in questions_in(needed) if not source.is_checked]
        for source in sources:
            leave_out_bad(source, self._workers(len(source.rows)))
        if any(source.skipped for source in sources) and self.trainer is not None:
            self._report_skipped(Path(self.trainer.default_root_dir) / SKIPPED)

    @rank_zero_only
    def _report_skipped(self, path: Path) -> None:
        everything = questions_in(self._given.values())
        left_out = {skipped for source in everything for skipped in source.skipped}
        write_skipped(path, left_out)
        rank_zero_warn(f"{len(left_out)} bad samples are left out; they are listed in {path}.")

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        return self._loader("test")

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seed = int(state_dict["seed"])

    # --------------------------------------------------------------------------------- loaders

    def _loader(self, split: str) -> DataLoader[Any]:
        """The split's loader; made anew only where something it depends on has changed."""
        source, training = self._given[split], split == "train"
        if source is None:
            raise MisconfigurationException(f"VqaDataModule was given no {split} source.")
        pack, textures = training and self.pack_turns, self._textures_of(split)
        # Where processes meet whenever the backbone is called, none may call it otherwise.
        strategy = getattr(self.trainer, "strategy", None)
        never_blind = bool(getattr(strategy, "meets_in_forward", False))
        collate = Collator(
            self.processor, for_measuring=not training, pack=pack, textures=textures,
            never_blind=never_blind,
        )  # fmt: skip
        workers = self._workers(len(source))
        how = Loading(
            batch_size=self.batch_size if training else self.val_batch_size, seed=self.seed,
            workers=workers, prefetch_factor=self.prefetch_factor,
            pin_memory=self.pin_memory is not False
            and may_pin(self.trainer, workers_stay(source, workers)),
            **shared_by(self.trainer),
        )  # fmt: skip
        # What is named by its id lives on in the loader that is kept: no other takes that number.
        depends_on = (
            id(source), len(source), id(self.processor), pack, how, never_blind,
            None if textures is None else textures.identity,
        )  # fmt: skip
        place = self._place if training else None
        return self._kept.get(split, depends_on, lambda: loader(source, collate, how, place))

    def _place(self) -> Place:
        """Where training stands, as the Trainer counts; without one, passes are counted."""
        trainer = self.trainer
        if trainer is None or not trainer.training:
            self._passes_by_hand += 1
            return Place(self._passes_by_hand - 1)
        return place_of(trainer)

    def _textures_of(self, split: str) -> CachedTextures | None:
        if self.texture_cache is None or split not in self.cached_splits:
            return None
        from lightning_arrcoc.data.cached_textures import CachedTextures

        return CachedTextures(self.texture_cache, self.recipe)

    def _workers(self, samples: int) -> int:
        if self.num_workers is not None:
            return self.num_workers
        return worker_count(samples, self.trainer.num_devices if self.trainer else 1)
