"""Coordinates and position taps, against transformers' own where it has them."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)

from lightning_arrcoc.relevance import Allocation
from lightning_arrcoc.vlm.vision import patch_coordinates, position_taps

GRIDS = st.tuples(st.integers(1, 9), st.integers(1, 9))


def allocation(rows: int, columns: int, level: int = 0) -> Allocation:
    """All cells of a grid, or its blocks of cells at a coarser level."""
    step = 2**level
    at = torch.cartesian_prod(torch.arange(0, rows, step), torch.arange(0, columns, step))
    centres = at.float().view(-1, 2) + (step - 1) / 2
    levels = torch.full((len(centres),), level)
    return Allocation(centres, levels, torch.ones(1, 1), torch.zeros(rows, columns), torch.zeros(3))


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


def test_a_token_at_the_margin_spreads_over_what_exists() -> None:
    at_margin = Allocation(
        torch.tensor([[0.5, 2.0]]), torch.tensor([1]), torch.ones(1, 1), torch.zeros(2, 3),
        torch.zeros(3),
    )  # fmt: skip
    assert patch_coordinates(at_margin, 2).tolist() == [
        [0.5, 4.0],
        [0.5, 5.0],
        [2.5, 4.0],
        [2.5, 5.0],
    ]


def test_taps_between_patches_equal_torchs_bilinear_sampling() -> None:
    random = torch.manual_seed(0)
    table = torch.randn(8, 8, 5, generator=random)
    grid = torch.tensor([6.0, 11.0])
    coordinates = torch.rand(40, 2, generator=random) * (grid - 1)
    taps, weights = position_taps(coordinates, grid.expand(40, 2), 8)
    ours = (table.flatten(0, 1)[taps] * weights[..., None]).sum(1)
    where = (2 * coordinates / (grid - 1) - 1).flip(-1)  # columns first, from -1 to 1
    theirs = F.grid_sample(
        table.permute(2, 0, 1)[None], where[None, None], align_corners=True, mode="bilinear"
    )
    torch.testing.assert_close(ours, theirs[0, :, 0].T, atol=1e-5, rtol=0)
