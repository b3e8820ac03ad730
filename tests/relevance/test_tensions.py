"""Each tension, turned by itself, changes the allocation as its name says."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_arrcoc.relevance import Allocation, ImageRelevance, TokenAllocator
from lightning_arrcoc.relevance.balancing import balance

ROWS = COLUMNS = 8


def allocated(tokens: int, exploit: float, compress: float, focus: float) -> Allocation:
    """An image with something salient at the upper left, twice, and what was asked for below."""
    salient = torch.full((ROWS, COLUMNS), -2.0)
    salient[0, 0], salient[0, 2] = 3.0, 2.9
    asked = torch.full((ROWS, COLUMNS), -2.0)
    asked[6, 5], asked[6, 6] = 3.0, 1.5
    looks = torch.rand(6, ROWS, COLUMNS, generator=torch.Generator().manual_seed(0)) * 9
    looks[:, 0, 2] = looks[:, 0, 0]
    tensions = torch.tensor([[exploit, compress, focus]])
    relevance = balance(torch.stack([salient, salient, asked])[None], tensions)[0]
    (found,) = TokenAllocator(tokens)([ImageRelevance(relevance, tensions[0], looks)])
    return found


def holds(allocation: Allocation, *cells: tuple[int, int]) -> list[bool]:
    return [bool(allocation.covered[cell]) for cell in cells]


def levels(allocation: Allocation) -> Tensor:
    return torch.bincount(allocation.levels, minlength=3)


def test_exploit_follows_the_question_and_explore_what_stands_out() -> None:
    exploiting = allocated(2, exploit=1.0, compress=0.0, focus=1.0)
    exploring = allocated(2, exploit=0.0, compress=0.0, focus=1.0)
    assert all(holds(exploiting, (6, 5), (6, 6)))
    assert all(holds(exploring, (0, 0), (0, 2)))
    both = allocated(2, exploit=0.5, compress=0.0, focus=1.0)
    assert all(holds(both, (6, 5), (0, 0)))


def test_compress_covers_more_with_coarser_tokens() -> None:
    covered, coarse = [], []
    for compress in (0.0, 0.6, 0.95, 1.0):
        found = allocated(7, exploit=0.5, compress=compress, focus=1.0)
        assert len(found.levels) == 7
        covered.append(int(found.covered.sum()))
        coarse.append(int(levels(found)[1:].sum()))
    assert covered == sorted(covered)
    assert coarse == sorted(coarse)
    assert covered[0] == 7
    assert covered[-1] == ROWS * COLUMNS


def test_focus_keeps_look_alikes_and_diversify_passes_them_over() -> None:
    focused = allocated(3, exploit=0.5, compress=0.0, focus=1.0)
    diverse = allocated(3, exploit=0.5, compress=0.0, focus=0.0)
    assert holds(focused, (0, 0), (0, 2), (6, 6)) == [True, True, False]
    assert holds(diverse, (0, 0), (0, 2), (6, 6)) == [True, False, True]
