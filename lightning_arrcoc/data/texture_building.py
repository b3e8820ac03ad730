"""Filling a texture cache: workers read, encode and measure, one process writes."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.data import DataLoader

from lightning_arrcoc.data.missing_textures import MissingTextures, Recipe, part_of
from lightning_arrcoc.data.questions import Skipped
from lightning_arrcoc.data.sample import Source
from lightning_arrcoc.data.skipping import Unchecked
from lightning_arrcoc.data.texture_cache import TextureCache, TextureWriter

BATCH = 64  # images; chosen by us: what a killed writer loses is measured again in seconds


class Built(NamedTuple):
    """What a run of `build_textures` did.

    Attributes:
        images: how many the samples show.
        measured: how many of them were not in the cache.
        seconds: it took.
        skipped: bad samples that were left out, where their source allows that.
    """

    images: int
    measured: int
    seconds: float
    skipped: tuple[Skipped, ...] = ()

    @property
    def images_a_second(self) -> float:
        return self.images / self.seconds


def build_textures(
    folder: str | Path,
    sources: Sequence[Source | Unchecked],
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
    skipped: list[Skipped] = []
    with TextureWriter(folder, shard, rebuild=rebuild, tell=tell) as writer:
        try:
            for done in loader_of(missing, workers):
                pending |= done.entries
                skipped += done.skipped
                images, measured = images + done.images, measured + len(done.entries)
                if len(pending) >= batch:
                    writer.put(pending)
                    pending.clear()
                advance(done.samples)
        finally:
            writer.put(pending)
    return Built(images, measured, time.perf_counter() - start, tuple(skipped))


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
    sources: Sequence[Source | Unchecked], shard: int = 0, shards: int = 1
) -> Iterator[Callable[[int], object]]:
    """A bar of a shard's samples on the screen while it lasts, and what moves it on."""
    samples = len(part_of(sum(map(len, sources)), shard, shards))
    columns = (
        TextColumn("textures"), BarColumn(), MofNCompleteColumn(), TextColumn("samples"),
        TimeRemainingColumn(),
    )  # fmt: skip
    console = Console()
    seen = console.is_terminal or console.is_jupyter  # elsewhere it would leave an empty line
    with Progress(
        *columns, console=console, transient=True, disable=shard > 0 or not seen
    ) as progress:
        task = progress.add_task("", total=samples)
        yield lambda more: progress.update(task, advance=more)
