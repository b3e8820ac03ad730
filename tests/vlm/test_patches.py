"""Patches, back into pixels and out of them again, at any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from lightning_arrcoc.vlm import ChatProcessor
from lightning_arrcoc.vlm.covering import CoveredCells
from lightning_arrcoc.vlm.patches import (
    PixelScale,
    downscaled_patches,
    fold_patches,
    unfold_patches,
)

HALF = PixelScale(torch.full((3,), 0.5), torch.full((3,), 0.5))


def patches_of(images: torch.Tensor) -> torch.Tensor:
    return unfold_patches(images, 16, 2, HALF)


def grid_cells(rows: int, columns: int, step: int) -> CoveredCells:
    """All cells of one image in tokens of `step` x `step`."""
    index = torch.arange(rows * columns).view(rows, columns)
    tokens = [
        index[top : top + step, left : left + step]
        for top in range(0, rows, step)
        for left in range(0, columns, step)
    ]
    return CoveredCells(
        torch.cat([token.flatten() for token in tokens]),
        torch.tensor([token.numel() for token in tokens]),
        torch.tensor([token.shape[1] for token in tokens]),
    )


@pytest.mark.parametrize("size", [(96, 160), (64, 64), (32, 256)])
def test_folding_gives_back_the_pixels(backbone_folder: Path, size: tuple[int, int]) -> None:
    processor = ChatProcessor.from_pretrained(backbone_folder, min_pixels=1024)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    encoded = processor.image_processor(images=[Image.fromarray(pixels)], return_tensors="pt")
    rows, columns = size[0] // 16, size[1] // 16
    scale = PixelScale(
        torch.tensor(processor.image_processor.image_mean),
        torch.tensor(processor.image_processor.image_std),
    )
    image = fold_patches(encoded["pixel_values"], (rows, columns), 2, scale)
    np.testing.assert_allclose(image[0].permute(1, 2, 0) * 255, pixels, atol=1e-3)
    patches = unfold_patches(image, 16, 2, scale)
    torch.testing.assert_close(patches, encoded["pixel_values"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("step", [1, 2, 4])
def test_tokens_of_several_cells_are_the_patches_of_the_downscaled_image(step: int) -> None:
    image = torch.rand(1, 3, 4 * step * 32 // 2, 2 * step * 32, generator=torch.manual_seed(0))
    rows, columns = image.shape[2] // 32, image.shape[3] // 32
    made = downscaled_patches(patches_of(image), 2, grid_cells(rows, columns, step))
    torch.testing.assert_close(made, patches_of(F.avg_pool2d(image, step)), atol=1e-6, rtol=0)


def test_at_the_margin_only_pixels_that_exist_are_averaged() -> None:
    image = torch.rand(1, 3, 96, 32, generator=torch.manual_seed(0))
    made = downscaled_patches(patches_of(image), 2, grid_cells(3, 1, 2))
    upper = F.avg_pool2d(image[:, :, :64], (2, 1))
    torch.testing.assert_close(made[:4], patches_of(upper), atol=1e-6, rtol=0)
    assert torch.equal(made[4:], patches_of(image[:, :, 64:]))


def test_single_cells_beside_others_stay_bit_for_bit() -> None:
    patches = torch.rand(4 * 6, 1536, generator=torch.manual_seed(0)).bfloat16()
    covered = CoveredCells(
        torch.tensor([4, 0, 1, 2, 5]), torch.tensor([1, 2, 1, 1]), torch.tensor([1, 2, 1, 1])
    )
    made = downscaled_patches(patches, 2, covered)
    assert made.dtype == torch.bfloat16
    assert torch.equal(made[:4], patches[16:20])
    assert torch.equal(made[8:], torch.cat([patches[8:12], patches[20:]]))
