"""Loaders over any source of visual questions."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch.utils.data import DataLoader

from lightning_arrcoc.data.collate import Collator, Encode, LookUp
from lightning_arrcoc.data.order import Drawn, EpochLoader, EpochOrder, Place
from lightning_arrcoc.data.questions import Questions
from lightning_arrcoc.data.sample import Source
from lightning_arrcoc.data.skipping import leave_out_bad, questions_in, write_skipped
from lightning_arrcoc.data.staged import StagedDataset
from lightning_arrcoc.data.workers import worker_count

if TYPE_CHECKING:
    from lightning_arrcoc.data.texture_building import Recipe

SKIPPED = "skipped.jsonl"  # in the folder of the run
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
        self._built: set[str] = set()
        self._made: dict[str, tuple[tuple[Any, ...], DataLoader[Any]]] = {}
        self._passes_by_hand = 0

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

    @property
    def _given(self) -> dict[str, Source | None]:
        return {"train": self.train, "val": self.val, "test": self.test}

    def cached_sources(self, splits: Sequence[str] = SPLITS) -> list[Source]:
        """Those of some splits whose textures are to be cached."""
        return [
            source
            for split in splits
            if split in self.cached_splits and (source := self._given[split]) is not None
        ]

    def prepare_data(self) -> None:
        """Measure what the cache lacks for this run."""
        if self.texture_cache is None or not self.build_textures:
            return
        from lightning_arrcoc.data.texture_building import build_textures, shown_progress

        fn = self.trainer.state.fn if self.trainer else None
        splits = [s for s in (READ_BY[fn] if fn else SPLITS) if s not in self._built]
        # Of copies, because bad samples are left out later, by all processes together.
        sources = [
            copy.copy(source) if isinstance(source, Questions) else source
            for source in self.cached_sources(splits)
        ]
        if sources:
            with shown_progress(sources) as advance:
                build_textures(
                    self.texture_cache, sources, self.recipe,
                    workers=self._workers(sum(map(len, sources))),
                    advance=advance, tell=rank_zero_info,
                )  # fmt: skip
        self._built.update(splits)

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
        return self._loader("train", self.train)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader("val", self.val)

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader("test", self.test)

    def predict_dataloader(self) -> DataLoader[Any]:
        return self._loader("test", self.test)

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seed = int(state_dict["seed"])

    # --------------------------------------------------------------------------------- loaders

    def _loader(self, split: str, source: Source | None) -> DataLoader[Any]:
        """The split's loader; made anew only where something it depends on has changed."""
        if source is None:
            raise MisconfigurationException(f"VqaDataModule was given no {split} source.")
        collate = Collator(
            self.processor,
            for_measuring=split != "train",
            pack=split == "train" and self.pack_turns,
            textures=self._textures_of(split),
        )
        workers = self._workers(len(source))
        # Stages change between epochs, and workers keep what they were made with.
        stay = workers > 0 and not isinstance(source, StagedDataset)
        options: dict[str, Any] = {"num_workers": workers, "pin_memory": self._pins(stay)}
        if workers:
            options |= {"prefetch_factor": self.prefetch_factor, "persistent_workers": stay}
        size = self.batch_size if split == "train" else self.val_batch_size
        shared = self._shared() if split == "train" else {}
        settings = (
            id(source), len(source), id(self.processor), self.pack_turns, self.seed, size,
            self.texture_cache, self.cached_splits, *options.items(), *shared.items(),
        )  # fmt: skip
        if split in self._made and self._made[split][0] == settings:
            return self._made[split][1]
        # One of its own, so that the random numbers of the process are left alone.
        options["generator"] = torch.Generator().manual_seed(self.seed % 2**63)
        dataset = Drawn(source, self.seed)
        if split == "train":
            order = EpochOrder(source, self._place, batch_size=size, seed=self.seed, **shared)
            loader: DataLoader[Any] = EpochLoader(
                dataset, batch_size=size, sampler=order, collate_fn=collate,
                drop_last=len(order) >= size, **options,
            )  # fmt: skip
        else:
            loader = DataLoader(dataset, batch_size=size, collate_fn=collate, **options)
        self._made[split] = (settings, loader)
        return loader

    def _place(self) -> Place:
        """Where training stands, as the Trainer counts; without one, passes are counted."""
        trainer = self.trainer
        if trainer is None or not trainer.training:
            self._passes_by_hand += 1
            return Place(self._passes_by_hand - 1)
        stop = trainer.num_training_batches
        return Place(
            trainer.current_epoch,
            trainer.fit_loop.batch_idx + 1,
            None if math.isinf(stop) else int(stop),
        )

    def _shared(self) -> dict[str, int]:
        """How many processes share the training samples, and which one this is."""
        kwargs = self.trainer.distributed_sampler_kwargs if self.trainer else None
        return dict(kwargs or {})

    def _textures_of(self, split: str) -> LookUp | None:
        if self.texture_cache is None or split not in self.cached_splits:
            return None
        from lightning_arrcoc.data.cached_textures import CachedTextures

        return CachedTextures(self.texture_cache, self.recipe)

    def _workers(self, samples: int) -> int:
        if self.num_workers is not None:
            return self.num_workers
        return worker_count(samples, self.trainer.num_devices if self.trainer else 1)

    def _pins(self, workers_stay: bool) -> bool:
        """Whether to pin memory: for CUDA alone.

        Not where loaders are asked for anew while their workers stay, which torch cannot do
        reliably (pytorch/pytorch#91252).
        """
        trainer = self.trainer
        if self.pin_memory is False or trainer is None:
            return False
        renewed = workers_stay and getattr(trainer, "reload_dataloaders_every_n_epochs", 0) > 0
        return isinstance(trainer.accelerator, CUDAAccelerator) and not renewed
