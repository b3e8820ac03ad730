"""Cells under tokens, counted through the images of a batch."""

from __future__ import annotations

import torch

from lightning_arrcoc.relevance import Allocation
from lightning_arrcoc.vlm.covering import covered_cells, first_cells

GRIDS = torch.tensor([[1, 4, 6], [1, 6, 4]])  # 2 x 3 and 3 x 2 cells


def allocation(rows: int, columns: int, *tokens: tuple[float, float, int]) -> Allocation:
    return Allocation(
        torch.tensor([token[:2] for token in tokens]).view(-1, 2),
        torch.tensor([token[2] for token in tokens], dtype=torch.long),
        torch.ones(1, 1),
        torch.zeros(rows, columns),
        torch.zeros(3),
    )


FIRST = allocation(2, 3, (0.5, 0.5, 1), (1.0, 2.0, 0))
SECOND = allocation(3, 2, (0.5, 0.5, 1), (2.0, 0.5, 1))


def test_first_cells_count_on_through_the_images() -> None:
    assert first_cells(GRIDS, 2, [FIRST, SECOND]).tolist() == [0, 5, 6, 10]


def test_the_cells_under_each_token_by_hand() -> None:
    covered = covered_cells(GRIDS, 2, [FIRST, SECOND])
    assert covered.cells.tolist() == [0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    assert covered.counts.tolist() == [4, 1, 4, 2]
    assert covered.columns.tolist() == [2, 1, 2, 2]


def test_an_image_without_tokens_is_passed_over() -> None:
    covered = covered_cells(GRIDS, 2, [allocation(2, 3), SECOND])
    assert covered.cells.tolist() == [6, 7, 8, 9, 10, 11]
    assert first_cells(GRIDS, 2, [allocation(2, 3), SECOND]).tolist() == [6, 10]


def test_features_are_averaged_over_real_cells() -> None:
    features = torch.rand(12, 5, generator=torch.manual_seed(0))
    mean = covered_cells(GRIDS, 2, [FIRST, SECOND]).mean(features)
    expected = [features[[0, 1, 3, 4]], features[[5]], features[[6, 7, 8, 9]], features[[10, 11]]]
    torch.testing.assert_close(mean, torch.stack([part.mean(0) for part in expected]))


def test_single_cells_keep_their_features_bit_for_bit() -> None:
    features = torch.rand(12, 5, generator=torch.manual_seed(0)).bfloat16()
    alone = allocation(3, 2, (0, 1, 0), (2, 0, 0))
    mean = covered_cells(GRIDS, 2, [allocation(2, 3), alone]).mean(features)
    assert torch.equal(mean, features[[7, 10]])
