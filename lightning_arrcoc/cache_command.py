"""The command `cache`: textures of a configuration's data, measured ahead of training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from lightning_arrcoc.data.datamodule import SPLITS
from lightning_arrcoc.data.skipping import SKIPPED, write_skipped
from lightning_arrcoc.data.texture_building import Built, build_textures, shown_progress
from lightning_arrcoc.data.texture_cache import TextureCache
from lightning_arrcoc.data.workers import available_cores
from lightning_arrcoc.relevance import TextureGenerator
from lightning_arrcoc.targets import build
from lightning_arrcoc.vlm.chat import ChatProcessor
from lightning_arrcoc.vlm.loading import locate
from lightning_arrcoc.vlm.texture_recipe import TextureRecipe

FOLDER = "outputs/textures"
LAUNCHERS = (  # rank, processes, and how many of them on this machine: torchrun; srun
    ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS_PER_NODE"),
)


class Share(NamedTuple):
    """Which part of the work is this process's.

    Attributes:
        rank, ranks: its number, from 0, and how many processes there are.
        neighbours: processes on this machine.
    """

    rank: int
    ranks: int
    neighbours: int


def cache(config: DictConfig) -> int:
    """Measure the textures that a run with this configuration would, and write them to disk."""
    share = share_of(os.environ)
    if config.rebuild and share.ranks > 1:
        raise ValueError(
            "rebuild=true removes what is there, which several processes cannot do at once. Remove "
            "the folder yourself, and leave rebuild out."
        )
    data = build(config.data)
    sources = data.cached_sources(SPLITS)
    if not sources:
        raise ValueError(
            "There is nothing to cache: none of data.cached_splits="
            f"{list(data.cached_splits)} has a source. Choose from {', '.join(SPLITS)}."
        )
    textures = TextureCache(data.texture_cache or FOLDER)
    workers = config.workers
    if workers is None:
        workers = max(1, available_cores() // share.neighbours)
    console = Console(soft_wrap=True)
    try:
        with shown_progress(sources, share.rank, share.ranks) as advance:
            built = build_textures(
                textures.folder, sources, recipe_of(config),
                shard=share.rank, shards=share.ranks, workers=workers, rebuild=config.rebuild,
                advance=advance, tell=console.print,
            )  # fmt: skip
    except KeyboardInterrupt:
        console.print(
            f"Stopped: {len(textures)} entries are safe in {textures.folder}; the same command "
            "goes on."
        )
        raise
    console.print(summary(textures, built, share))
    if built.skipped:
        path = Path(HydraConfig.get().runtime.output_dir) / SKIPPED
        write_skipped(path, built.skipped)
        console.print(f"{len(built.skipped)} bad samples were left out; they are listed in {path}.")
    return 0


def recipe_of(config: DictConfig) -> TextureRecipe:
    """How the configured model's textures come about, without the model."""
    model = config.model
    processor = ChatProcessor.from_pretrained(
        locate(model.backbone), min_pixels=model.min_pixels, max_pixels=model.max_pixels
    )
    texture = (model.get("arr_coc") or {}).get("texture")
    return TextureRecipe(processor, build(texture) if texture else TextureGenerator())


def summary(textures: TextureCache, built: Built, share: Share) -> str:
    """What is in the cache now, and how it came there."""
    entries = len(textures)
    each = textures.bytes_on_disk() / max(1, entries)
    of = f" (shard {share.rank} of {share.ranks})" if share.ranks > 1 else ""
    return (
        f"{entries:,} entries, {each:,.0f} bytes an image: {textures.folder}\n"
        f"{built.measured:,} of {built.images:,} images were measured now{of}, "
        f"{built.images_a_second:,.1f} images a second"
    )


def share_of(environment: Mapping[str, str]) -> Share:
    """What torchrun or srun say of this process; all of the work where neither started it.

    Raises:
        ValueError: they contradict themselves.
    """
    for rank, ranks, neighbours in LAUNCHERS:
        if rank in environment and ranks in environment:
            found = environment[rank], environment[ranks]
            if not all(map(str.isdecimal, found)) or int(found[0]) >= int(found[1]):
                raise ValueError(
                    f"{rank}={found[0]}, {ranks}={found[1]}; expected ranks from 0 to below their "
                    "number. Unset both to build with one process."
                )
            near = environment.get(neighbours, "1")
            beside = int(near) if near.isdecimal() else 1
            return Share(int(found[0]), int(found[1]), max(1, beside))
    return Share(0, 1, 1)
