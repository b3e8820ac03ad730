"""Filling a texture cache: workers read, encode and measure, one process writes."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from lightning_arrcoc.data.sample import Sample, Source
from lightning_arrcoc.data.texture_cache import TextureCache, TextureWriter
from lightning_arrcoc.data.texture_entry import pack, texture_key

STRETCH = 8  # samples a worker takes at a time: neighbours often show the same image
BATCH = 64  # images; chosen by us: what a killed writer loses is measured again in seconds


class Recipe(Protocol):
    """How textures come about; see `TextureRecipe`, which is the model's own."""

    fingerprint: str

    def grid_of(self, image: Image.Image, /) -> tuple[int, int]: ...
    def cells(self, grid_thw: Tensor, /) -> tuple[int, int]: ...
    def measure(self, image: Image.Image, /) -> Tensor: ...
    def measure_patches(self, patches: Tensor, grid_thw: Tensor, /) -> Tensor: ...


class Built(NamedTuple):
    """What a run of `build_textures` did.

    Attributes:
        images: how many the samples show.
        measured: how many of them were not in the cache.
        seconds: it took.
    """

    images: int
    measured: int
    seconds: float

    @property
    def images_a_second(self) -> float:
        return self.images / self.seconds


class Stretch(NamedTuple):
    """What a worker made of some samples in a row.

    Attributes:
        samples, images: how many.
        entries: what is missing in the cache, packed, by key.
    """

    samples: int
    images: int
    entries: dict[bytes, bytes]


def build_textures(
    folder: str | Path,
    sources: Sequence[Source],
    recipe: Recipe,
    *,
    shard: int = 0,
    shards: int = 1,
    workers: int = 0,
    batch: int = BATCH,
    rebuild: bool = False,
    advance: Callable[[int], object] = lambda samples: None,
    tell: Callable[[str], object] = print,
) -> Built:
    """Measure what a cache lacks, and what is damaged in it, and write it.

    It may be stopped at any time and run again. What was measured before an interruption or an
    error is written; a killed run loses at most the batch it was writing.

    Args:
        folder: of the cache; made where it is missing.
        sources: whose images are wanted.
        recipe: how their textures come about.
        shard, shards: this process's part of the samples, of how many; from 0.
        workers: processes that read, encode and measure; 0 does it here.
        batch: images written at once.
        rebuild: remove what is there.
        advance: hears of how many more samples are done.
        tell: hears that another process is being waited for.

    Raises:
        OSError: the disk is full, or refuses for another reason; what was written is safe.
        ValueError: another version wrote the cache, or a file of it is damaged beyond an entry.
    """
    start, images, measured = time.perf_counter(), 0, 0
    missing = MissingTextures(TextureCache(folder), sources, recipe, shard, shards)
    pending: dict[bytes, bytes] = {}
    with TextureWriter(folder, shard, rebuild=rebuild, tell=tell) as writer:
        try:
            for done in loader_of(missing, workers):
                pending |= done.entries
                images, measured = images + done.images, measured + len(done.entries)
                if len(pending) >= batch:
                    writer.put(pending)
                    pending.clear()
                advance(done.samples)
        finally:
            writer.put(pending)
    return Built(images, measured, time.perf_counter() - start)


class MissingTextures(Dataset[Stretch]):
    """Stretches of one shard's samples, with the entries that a cache lacks."""

    def __init__(
        self,
        cache: TextureCache,
        sources: Sequence[Source],
        recipe: Recipe,
        shard: int = 0,
        shards: int = 1,
    ) -> None:
        if not 0 <= shard < shards:
            raise ValueError(f"shard={shard} of shards={shards}; expected 0 to {shards - 1}.")
        self.samples: ConcatDataset[Sample] | None = None
        if sources:
            self.samples = ConcatDataset(sources)  # type: ignore[arg-type]  # any such object
        self.cache, self.recipe = cache, recipe
        self.mine = part_of(sum(map(len, sources)), shard, shards)
        self.made: set[bytes] = set()  # by this worker

    def __len__(self) -> int:
        return -(-len(self.mine) // STRETCH)

    def __getitem__(self, number: int) -> Stretch:
        assert self.samples is not None
        part = self.mine[number * STRETCH : (number + 1) * STRETCH]
        images, entries = 0, dict[bytes, bytes]()
        for sample in (self.samples[index] for index in part):
            images += len(sample.images)
            for image, digest in zip(sample.images, digests_of(sample), strict=True):
                grid = self.recipe.grid_of(image)
                key = texture_key(image, digest, self.recipe.fingerprint, grid)
                if key not in self.made and self.cache.get(key) is None:
                    entries[key] = pack(key, self.recipe.measure(image))
                    self.made.add(key)
        return Stretch(len(part), images, entries)


def part_of(samples: int, shard: int, shards: int) -> range:
    """Those that belong to a shard: neighbours, which often show the same image."""
    return range(samples * shard // shards, samples * (shard + 1) // shards)


def digests_of(sample: Sample) -> tuple[str | None, ...]:
    """One for each image; None where the source does not know them.

    Raises:
        ValueError: there are some, but not one for each.
    """
    if sample.digests and len(sample.digests) != len(sample.images):
        raise ValueError(
            f"A sample has {len(sample.digests)} digests for {len(sample.images)} images; expected "
            "one for each, or none."
        )
    return sample.digests or (None,) * len(sample.images)


def loader_of(missing: MissingTextures, workers: int) -> DataLoader[Any]:
    """Stretches in order, made by so many processes, which leave Ctrl-C to this one."""
    return DataLoader(
        missing,
        batch_size=None,
        num_workers=workers,
        collate_fn=as_it_is,
        worker_init_fn=ignore_interrupts if workers else None,
    )


def as_it_is(stretch: Any) -> Any:
    """Loaders would take entries apart."""
    return stretch


def ignore_interrupts(_worker: int) -> None:
    """Ctrl-C reaches workers too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def shown_progress(
    sources: Sequence[Source], shard: int = 0, shards: int = 1
) -> Iterator[Callable[[int], object]]:
    """A bar of a shard's samples on the screen while it lasts, and what moves it on."""
    samples = len(part_of(sum(map(len, sources)), shard, shards))
    columns = (
        TextColumn("textures"), BarColumn(), MofNCompleteColumn(), TextColumn("samples"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, transient=True, disable=shard > 0) as progress:
        task = progress.add_task("", total=samples)
        yield lambda more: progress.update(task, advance=more)
