"""A batch's textures from the cache, or measured on the spot."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_arrcoc.data.missing_textures import Recipe, digests_of
from lightning_arrcoc.data.sample import Sample
from lightning_arrcoc.data.texture_cache import TextureCache
from lightning_arrcoc.data.texture_entry import texture_key


class CachedTextures:
    """Looks up the textures of every image of a batch. Never writes.

    One that is missing or damaged is measured from the batch's own patches, with one warning a
    process.

    Args:
        folder: of the cache.
        recipe: how the textures came about, or would come.
    """

    def __init__(self, folder: str | Path, recipe: Recipe) -> None:
        self.cache = TextureCache(folder)
        self.recipe = recipe
        self._warned = False

    @property
    def identity(self) -> tuple[str, str]:
        """What tells it from others: two that share it give the same."""
        return str(self.cache.folder), self.recipe.fingerprint

    def __call__(self, samples: Sequence[Sample], inputs: Mapping[str, Any]) -> list[Tensor]:
        """``(C, H, W)`` fp16 for each image, in the order of the batch.

        Args:
            samples: that were encoded.
            inputs: what the processor made of them, images included.
        """
        grids = inputs["image_grid_thw"]
        patches = torch.split(inputs["pixel_values"], grids.prod(-1).tolist())
        images = [
            pair
            for sample in samples
            for pair in zip(sample.images, digests_of(sample), strict=True)
        ]
        found: list[Tensor] = []
        for (image, digest), grid_thw, packed in zip(images, grids, patches, strict=True):
            grid = self.recipe.cells(grid_thw)
            key = texture_key(image, digest, self.recipe.fingerprint, grid)
            textures = self.cache.get(key)
            if textures is None:
                self._warn()
                textures = self.recipe.measure_patches(packed, grid_thw)
            found.append(textures)
        return found

    def _warn(self) -> None:
        if not self._warned:
            warnings.warn(
                f"The texture cache {str(self.cache.folder)!r} lacks an image, or it is damaged "
                "there; it is measured now, and whenever it is needed again. Mend the cache: "
                f"python -m lightning_arrcoc cache data.texture_cache={self.cache.folder}, with "
                "the data= and model= of this run.",
                stacklevel=2,
            )
        self._warned = True
