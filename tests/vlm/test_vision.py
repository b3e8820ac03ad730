"""Patches, coordinates and position taps, against transformers' own where it has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)

from lightning_arrcoc.relevance import Allocation
from lightning_arrcoc.vlm import ChatProcessor
from lightning_arrcoc.vlm.vision import (
    PixelScale,
    fold_patches,
    packed_cells,
    patch_coordinates,
    position_taps,
    unfold_patches,
)

HALF = PixelScale(torch.full((3,), 0.5), torch.full((3,), 0.5))
GRIDS = st.tuples(st.integers(1, 9), st.integers(1, 9))


def allocation(rows: int, columns: int, level: int = 0) -> Allocation:
    """All cells of a grid, or its blocks of cells at a coarser level."""
    step = 2**level
    at = torch.cartesian_prod(torch.arange(0, rows, step), torch.arange(0, columns, step))
    centres = at.float().view(-1, 2) + (step - 1) / 2
    levels = torch.full((len(centres),), level)
    return Allocation(centres, levels, torch.ones(1, 1), torch.zeros(rows, columns), torch.zeros(3))


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


@settings(deadline=None)
@given(GRIDS)
def test_coordinates_and_taps_equal_the_towers_own(grid: tuple[int, int]) -> None:
    rows, columns = grid
    grid_thw = torch.tensor([[1, 2 * rows, 2 * columns]])
    expected = get_vision_position_ids(grid_thw, 2)
    ours = patch_coordinates(allocation(rows, columns), 2)
    assert ours.dtype == torch.long
    assert torch.equal(ours, expected)
    indices, weights = get_vision_interpolation_indices_and_weights(
        grid_thw, num_grid_per_side=8, mode="bilinear", align_corners=True, spatial_merge_size=2
    )
    table = torch.randn(64, 3)
    taps, tap_weights = position_taps(ours, grid_thw[0, 1:].expand(len(ours), 2), 8)
    assert torch.equal(
        (table[taps] * tap_weights[..., None]).sum(1), (table[indices] * weights[..., None]).sum(1)
    )


def test_a_coarse_token_stands_between_the_patches_it_covers() -> None:
    coarse = patch_coordinates(allocation(2, 2, level=1), 2)
    assert coarse.tolist() == [[0.5, 0.5], [0.5, 2.5], [2.5, 0.5], [2.5, 2.5]]


def test_taps_weigh_to_one_everywhere() -> None:
    coordinates = torch.rand(200, 2) * torch.tensor([5.0, 11.0])
    _, weights = position_taps(coordinates, torch.tensor([[6, 12]]).expand(200, 2), 8)
    torch.testing.assert_close(weights.sum(1), torch.ones(200))
    assert bool((weights >= 0).all())


def test_packed_cells_count_on_through_the_images() -> None:
    grids = torch.tensor([[1, 4, 4], [1, 2, 4]])
    first = allocation(2, 2)._replace(positions=torch.tensor([[1.0, 0.0]]), levels=torch.zeros(1))
    assert packed_cells(grids, 2, [first, allocation(1, 2)]).tolist() == [2, 4, 5]
