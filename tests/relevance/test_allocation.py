"""A budget is spent exactly, and on the most relevant cells."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_arrcoc.relevance.allocation import (
    REGION,
    TokenAllocator,
    check_budget,
    keep_top,
    token_count,
)

property_of = settings(deadline=None, max_examples=60, derandomize=True)
TENSIONS = torch.tensor([0.1, 0.2, 0.3])
sizes = st.tuples(st.integers(1, 11), st.integers(1, 11))


@st.composite
def samples(draw):
    """The relevance maps of one sample's images, ties included, and a budget they can spend."""
    shapes = draw(st.lists(sizes, min_size=1, max_size=3))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    maps = [torch.rand(shape, generator=random) for shape in shapes]
    if draw(st.booleans()):
        maps = [scores.mul(4).round() / 4 for scores in maps]
    cells = sum(scores.numel() for scores in maps)
    budget = draw(st.one_of(st.integers(1, cells), st.floats(0.01, 1.0)))
    return maps, budget


def allocate(maps, budget):
    return TokenAllocator()(maps, [TENSIONS] * len(maps), budget)


# ----------------------------------------------------------------------------------- keep_top


@pytest.mark.parametrize(
    ("budget", "kept"), [(1, [3]), (2, [1, 3]), (3, [1, 3, 4]), (5, [0, 1, 2, 3, 4])]
)
def test_the_highest_are_kept_in_ascending_order_by_hand(budget, kept):
    indices = keep_top(torch.tensor([0.1, 0.8, -5.0, 90.0, 0.2]), budget)
    assert indices.tolist() == kept
    assert indices.dtype == torch.int64


@pytest.mark.parametrize("budget", [0, -1, 4])
def test_more_or_fewer_than_there_are_cells_cannot_be_kept(budget):
    with pytest.raises(ValueError, match=rf"budget={budget}; expected 1 to 3 cells"):
        keep_top(torch.rand(3), budget)


# ------------------------------------------------------------------------------------ budgets


@pytest.mark.parametrize("budget", [0, -3, True, False, 0.0, -0.5, 1.01, float("nan"), "8", None])
def test_what_can_be_no_budget_is_refused_at_once(budget):
    for refuses in (check_budget, TokenAllocator, lambda b: token_count(b, 100)):
        with pytest.raises(ValueError, match="expected a number of tokens from 1 up"):
            refuses(budget)


@pytest.mark.parametrize(
    ("budget", "cells", "tokens"),
    [
        (1, 9, 1),
        (9, 9, 9),
        (1.0, 9, 9),
        (0.5, 9, 4),
        (0.3, 9, 3),
        (0.1, 144, 14),
        (0.25, 144, 36),
        (0.001, 144, 1),
    ],
)
def test_an_int_is_tokens_and_a_float_a_share(budget, cells, tokens):
    counted = token_count(budget, cells)
    assert counted == tokens
    assert type(counted) is int


def test_one_token_and_all_tokens_are_told_apart_by_type():
    assert token_count(1, 50) == 1
    assert token_count(1.0, 50) == 50


def test_more_tokens_than_cells_are_refused_with_a_way_out():
    with pytest.raises(
        ValueError, match=r"budget=10, but this sample has 9 visual tokens. Choose 1 to 9"
    ):
        token_count(10, 9)
    with pytest.raises(ValueError, match="budget=10, but this sample has 9"):
        allocate([torch.rand(3, 3)], 10)


def test_the_allocators_own_budget_holds_unless_a_call_brings_one():
    allocator = TokenAllocator(4)
    assert allocator.num_positions == 4
    maps = [torch.rand(3, 3)]
    assert len(allocator(maps, [TENSIONS], None)[0].levels) == 4
    assert len(allocator(maps, [TENSIONS], 2)[0].levels) == 2


# ---------------------------------------------------------------------------------- allocation


@given(samples())
@property_of
def test_the_budget_is_spent_to_the_last_token_over_all_images(sample):
    maps, budget = sample
    cells = sum(scores.numel() for scores in maps)
    expected = budget if isinstance(budget, int) else max(1, round(budget * cells))
    allocations = allocate(maps, budget)
    assert len(allocations) == len(maps)
    assert sum(len(a.positions) for a in allocations) == expected
    assert sum(len(a.levels) for a in allocations) == expected
    assert sum(int(a.budgets.sum()) for a in allocations) == expected


@given(samples())
@property_of
def test_no_dropped_cell_of_any_image_is_more_relevant_than_a_kept_one(sample):
    maps, budget = sample
    allocations = allocate(maps, budget)
    kept = torch.cat([m.flatten()[a.cells] for m, a in zip(maps, allocations, strict=True)])
    ranked = sorted(torch.cat([m.flatten() for m in maps]).tolist(), reverse=True)
    assert sorted(kept.tolist(), reverse=True) == ranked[: len(kept)]


@given(samples())
@property_of
def test_positions_are_distinct_cells_in_raster_order(sample):
    maps, budget = sample
    for scores, allocation in zip(maps, allocate(maps, budget), strict=True):
        pairs = [tuple(pair) for pair in allocation.positions.tolist()]
        assert pairs == sorted(set(pairs))
        rows, columns = scores.shape
        assert all(0 <= row < rows and 0 <= column < columns for row, column in pairs)
        # `cells` is the way back: flat indices into the map they were chosen from.
        assert [divmod(cell, columns) for cell in allocation.cells.tolist()] == pairs


@given(samples())
@property_of
def test_regions_count_the_tokens_inside_them_also_where_they_do_not_tile(sample):
    maps, budget = sample
    for scores, allocation in zip(maps, allocate(maps, budget), strict=True):
        rows, columns = scores.shape
        counted = torch.zeros(-(-rows // REGION), -(-columns // REGION), dtype=torch.int64)
        for row, column in allocation.positions.long().tolist():
            counted[row // REGION, column // REGION] += 1
        assert allocation.budgets.dtype == torch.int64
        assert allocation.budgets.equal(counted)


def test_an_allocation_by_hand():
    relevance = torch.zeros(5, 6)
    relevance[0, 1], relevance[2, 5], relevance[4, 0] = 0.9, 0.8, 0.7
    (allocation,) = allocate([relevance], 3)
    assert allocation.positions.tolist() == [[0, 1], [2, 5], [4, 0]]
    assert allocation.positions.dtype == torch.float32
    assert allocation.cells.tolist() == [1, 17, 24]
    assert allocation.levels.tolist() == [0, 0, 0]
    assert allocation.levels.dtype == torch.int64
    assert allocation.budgets.tolist() == [[1, 1], [1, 0]]
    assert allocation.relevance.equal(relevance.sigmoid())
    assert allocation.tensions is TENSIONS


def test_an_image_without_anything_relevant_gives_its_share_to_the_others():
    dull, busy = torch.zeros(3, 3), torch.ones(2, 2)
    first, second = allocate([dull, busy], 4)
    assert first.cells.tolist() == []
    assert first.positions.shape == (0, 2)
    assert first.budgets.tolist() == [[0]]
    assert second.cells.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("budget", [1.0, 30 + 6])
def test_a_budget_of_everything_keeps_everything(budget):
    whole, small = allocate([torch.rand(5, 6), torch.rand(2, 3)], budget)
    assert whole.cells.tolist() == list(range(30))
    assert small.cells.tolist() == list(range(6))
    assert whole.budgets.tolist() == [[16, 8], [4, 2]]


def test_only_the_order_of_scores_matters():
    logits = 5 * torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    (by_logit,), (by_rank,) = allocate([logits], 9), allocate([logits.exp() + 3], 9)
    assert by_logit.cells.equal(by_rank.cells)


def test_tensions_of_another_number_of_images_are_refused():
    with pytest.raises(ValueError, match=r"zip\(\)"):
        TokenAllocator(1)([torch.rand(2, 2)] * 2, [TENSIONS], None)


def test_the_surest_of_sure_cells_is_kept():
    """As probabilities in fp32 both are exactly one."""
    logits = torch.full((2, 2), -3.0)
    logits[0, 0], logits[1, 1] = 20.0, 30.0
    assert allocate([logits], 1)[0].cells.tolist() == [3]
