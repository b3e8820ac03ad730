"""Finding what a texture cache lacks, and measuring it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset

from lightning_arrcoc.data.questions import Skipped
from lightning_arrcoc.data.sample import Sample, Source
from lightning_arrcoc.data.skipping import Unchecked
from lightning_arrcoc.data.texture_cache import TextureCache
from lightning_arrcoc.data.texture_entry import pack, texture_key

STRETCH = 8  # samples a worker takes at a time: neighbours often show the same image


class Recipe(Protocol):
    """How textures come about; see `TextureRecipe`, which is the model's own."""

    fingerprint: str

    def grid_of(self, image: Image.Image, /) -> tuple[int, int]: ...
    def cells(self, grid_thw: Tensor, /) -> tuple[int, int]: ...
    def measure(self, image: Image.Image, /) -> Tensor: ...
    def measure_patches(self, patches: Tensor, grid_thw: Tensor, /) -> Tensor: ...


class Stretch(NamedTuple):
    """What a worker made of some samples in a row.

    Attributes:
        samples, images: how many.
        entries: what is missing in the cache, packed, by key.
        skipped: bad ones among the samples.
    """

    samples: int
    images: int
    entries: dict[bytes, bytes]
    skipped: tuple[Skipped, ...] = ()


class MissingTextures(Dataset[Stretch]):
    """Stretches of one shard's samples, with the entries that a cache lacks."""

    def __init__(
        self,
        cache: TextureCache,
        sources: Sequence[Source | Unchecked],
        recipe: Recipe,
        shard: int = 0,
        shards: int = 1,
    ) -> None:
        if not 0 <= shard < shards:
            raise ValueError(f"shard={shard} of shards={shards}; expected 0 to {shards - 1}.")
        self.samples: ConcatDataset[Sample | Skipped] | None = None
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
        images, entries, skipped = 0, dict[bytes, bytes](), list[Skipped]()
        for sample in (self.samples[index] for index in part):
            if isinstance(sample, Skipped):
                skipped.append(sample)
                continue
            images += len(sample.images)
            for image, digest in zip(sample.images, digests_of(sample), strict=True):
                grid = self.recipe.grid_of(image)
                key = texture_key(image, digest, self.recipe.fingerprint, grid)
                if key not in self.made and self.cache.get(key) is None:
                    entries[key] = pack(key, self.recipe.measure(image))
                    self.made.add(key)
        return Stretch(len(part), images, entries, tuple(skipped))


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
