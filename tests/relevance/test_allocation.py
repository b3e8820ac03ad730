"""A budget is spent exactly, and on the most relevant cells."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_arrcoc.relevance.allocation import (
    Allocation,
    ImageRelevance,
    TokenAllocator,
    check_budget,
    keep_top,
    token_count,
)
from lightning_arrcoc.relevance.quadtree import REGION

property_of = settings(deadline=None, max_examples=60, derandomize=True)
TENSIONS = torch.tensor([0.1, 0.6, 0.3])
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


def allocate(maps, budget, tensions=TENSIONS, coarse=False):
    found = [ImageRelevance(logits, tensions) for logits in maps]
    return TokenAllocator(coarse=coarse)(found, budget)


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
    found = [ImageRelevance(torch.rand(3, 3), TENSIONS)]
    assert len(allocator(found)[0].levels) == 4
    assert len(allocator(found, 2)[0].levels) == 2


# ---------------------------------------------------------------------------------- allocation


@given(samples(), st.booleans())
@property_of
def test_the_budget_is_spent_to_the_last_token_over_all_images(sample, coarse):
    maps, budget = sample
    cells = sum(scores.numel() for scores in maps)
    expected = budget if isinstance(budget, int) else max(1, round(budget * cells))
    allocations = allocate(maps, budget, coarse=coarse)
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


@given(samples(), st.booleans())
@property_of
def test_tokens_begin_at_distinct_cells_in_raster_order(sample, coarse):
    maps, budget = sample
    for scores, allocation in zip(maps, allocate(maps, budget, coarse=coarse), strict=True):
        pairs = [tuple(pair) for pair in allocation.boxes[:, :2].tolist()]
        assert pairs == sorted(set(pairs))
        rows, columns = scores.shape
        assert all(0 <= row < rows and 0 <= column < columns for row, column in pairs)
        # `cells` is the way back: flat indices into the map they were chosen from.
        assert [divmod(cell, columns) for cell in allocation.cells.tolist()] == pairs


@given(samples(), st.booleans())
@property_of
def test_regions_count_the_tokens_inside_them_also_where_they_do_not_tile(sample, coarse):
    maps, budget = sample
    for scores, allocation in zip(maps, allocate(maps, budget, coarse=coarse), strict=True):
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
    assert allocation.tensions.equal(TENSIONS)


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


def test_the_surest_of_sure_cells_is_kept():
    """As probabilities in fp32 both are exactly one."""
    logits = torch.full((2, 2), -3.0)
    logits[0, 0], logits[1, 1] = 20.0, 30.0
    assert allocate([logits], 1)[0].cells.tolist() == [3]


# -------------------------------------------------------------------------------------- levels


def compressing(compress):
    return torch.tensor([0.5, compress, 1.0])


def by_level(allocations):
    return torch.bincount(torch.cat([a.levels for a in allocations]), minlength=3).tolist()


@given(samples(), st.floats(0, 1))
@property_of
def test_no_cell_lies_under_two_tokens_and_none_outside_the_image(sample, compress):
    maps, budget = sample
    for scores, allocation in zip(
        maps, allocate(maps, budget, compressing(compress), coarse=True), strict=True
    ):
        times = torch.zeros(scores.shape)
        for (top, left, bottom, right), level in zip(
            allocation.boxes.tolist(), allocation.levels.tolist(), strict=True
        ):
            assert top % 2**level == left % 2**level == 0
            assert 0 < bottom - top <= 2**level
            assert 0 < right - left <= 2**level
            times[top:bottom, left:right] += 1
        assert times.max() <= 1
        assert allocation.covered.equal(times > 0)
        middles = (allocation.boxes[:, :2] + allocation.boxes[:, 2:] - 1) / 2
        assert allocation.positions.equal(middles)


@given(samples())
@property_of
def test_without_levels_or_without_compression_the_top_cells_are_kept(sample):
    maps, budget = sample
    for allocations in (
        allocate(maps, budget, compressing(0.9), coarse=False),
        allocate(maps, budget, compressing(0.0), coarse=True),
    ):
        kept = torch.cat([m.flatten()[a.cells] for m, a in zip(maps, allocations, strict=True)])
        ranked = torch.cat([m.flatten() for m in maps]).sort(descending=True).values
        assert kept.sort(descending=True).values.equal(ranked[: len(kept)])
        assert by_level(allocations)[1:] == [0, 0]


@given(sizes, sizes, st.integers(0, 2**31))
@property_of
def test_full_compression_with_a_token_a_region_is_downsampling(one, other, seed):
    random = torch.Generator().manual_seed(seed)
    maps = [3 * torch.randn(shape, generator=random) for shape in (one, other)]
    regions = sum(-(-rows // REGION) * -(-columns // REGION) for rows, columns in (one, other))
    allocations = allocate(maps, regions, compressing(1.0), coarse=True)
    for allocation in allocations:
        assert bool(allocation.covered.all())
        assert bool((allocation.budgets == 1).all())


def test_half_and_half_by_hand():
    """A busy cell alone, a region of even relevance whole, the rest dropped."""
    logits = torch.full((8, 8), -9.0)
    logits[0, 1] = 5.0
    logits[4:, 4:] = 4.0
    (allocation,) = allocate([logits], 2, compressing(0.7), coarse=True)
    assert allocation.levels.tolist() == [0, 2]
    assert allocation.positions.tolist() == [[0, 1], [5.5, 5.5]]
    assert allocation.boxes.tolist() == [[0, 1, 1, 2], [4, 4, 8, 8]]
    assert allocation.cells.tolist() == [1, 36]
    assert allocation.budgets.tolist() == [[1, 0], [0, 1]]


def test_a_region_at_the_margin_has_its_centre_among_the_cells_that_exist():
    (allocation,) = allocate([torch.zeros(6, 5)], 4, compressing(1.0), coarse=True)
    assert allocation.positions.tolist() == [[1.5, 1.5], [1.5, 4], [4.5, 1.5], [4.5, 4]]
    assert allocation.levels.tolist() == [2, 2, 2, 1]  # the last is two cells, half a quadrant


def test_a_single_cell_at_the_corner_is_a_token_of_one_cell():
    (allocation,) = allocate([torch.zeros(5, 5)], 4, compressing(1.0), coarse=True)
    assert allocation.levels.tolist() == [2, 2, 2, 0]


def test_more_compression_never_means_more_tokens_of_one_cell():
    logits = 2 * torch.randn(16, 16, generator=torch.Generator().manual_seed(3))
    fine = [
        by_level(allocate([logits], 40, compressing(compress), coarse=True))[0]
        for compress in (0.0, 0.3, 0.6, 0.8, 1.0)
    ]
    assert fine == sorted(fine, reverse=True)
    assert fine[0] == 40
    assert fine[-1] <= 20


def test_each_image_of_a_sample_has_a_compression_of_its_own():
    logits = torch.zeros(8, 8)
    found = [ImageRelevance(logits, compressing(c)) for c in (0.0, 0.9)]
    fine, coarse = TokenAllocator()(found, 12)
    assert set(fine.levels.tolist()) == {0}
    assert 2 in coarse.levels.tolist()


@given(samples(), st.floats(0.05, 1), st.integers(0, 2**31))
@property_of
def test_an_image_alone_is_allocated_as_beside_another_sample(sample, compress, seed):
    maps, budget = sample
    tensions = compressing(compress)
    one, again = (allocate(maps, budget, tensions, coarse=True) for _ in range(2))
    for a, b in zip(one, again, strict=True):
        assert a.positions.equal(b.positions)
        assert a.levels.equal(b.levels)


def test_log_odds_a_hundred_apart_still_have_an_order():
    logits = -3.0 * torch.arange(36.0).view(6, 6)
    (allocation,) = allocate([logits], 20, compressing(0.1), coarse=True)
    assert allocation.cells.tolist() == list(range(20))


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature"):
        TokenAllocator(temperature=temperature)


def test_a_lower_temperature_keeps_finer_tokens():
    logits = torch.randn(16, 16, generator=torch.Generator().manual_seed(3))
    found = [ImageRelevance(logits, compressing(0.6))]
    cold, warm = (TokenAllocator(30, temperature=t)(found) for t in (0.1, 2.0))
    assert by_level(cold)[0] > by_level(warm)[0]


def test_an_allocation_moves_with_its_image():
    assert isinstance(allocate([torch.rand(3, 3)], 2)[0], Allocation)
    (allocation,) = allocate([torch.rand(3, 3, dtype=torch.bfloat16)], 2)
    assert allocation.relevance.dtype == torch.bfloat16


@pytest.fixture(params=[torch.float16, torch.bfloat16])
def half_precision(request):
    """As Lightning's true half precision sets it around every step."""
    torch.set_default_dtype(request.param)
    yield
    torch.set_default_dtype(torch.float32)


def diverse(side):
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(side, side, generator=random, dtype=torch.float32)
    looks = torch.randn(5, side, side, generator=random, dtype=torch.float32).round()
    return ImageRelevance(logits, torch.tensor([0.5, 0.6, 0.0], dtype=torch.float32), looks)


def test_half_precision_around_it_changes_no_choice(half_precision):
    chosen = TokenAllocator(60)([diverse(40)])[0]
    torch.set_default_dtype(torch.float32)
    expected = TokenAllocator(60)([diverse(40)])[0]
    assert chosen.positions.equal(expected.positions)
    assert chosen.levels.equal(expected.levels)


def test_positions_beyond_what_half_precision_counts_are_exact(half_precision):
    logits = torch.arange(400.0, dtype=torch.float32)[:, None]
    tensions = torch.tensor([0.5, 0.0, 1.0], dtype=torch.float32)
    (allocation,) = TokenAllocator(20)([ImageRelevance(logits, tensions)])
    assert allocation.cells.tolist() == list(range(380, 400))


def test_autocast_around_it_changes_no_choice():
    expected = TokenAllocator(60)([diverse(40)])[0]
    with torch.autocast("cpu", torch.bfloat16):
        chosen = TokenAllocator(60)([diverse(40)])[0]
    assert chosen.positions.equal(expected.positions)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused_instead_of_a_wrong_budget(wrong):
    logits = torch.rand(6, 6)
    logits[2, 3] = wrong
    with pytest.raises(ValueError, match=r"Relevance: 1 of 36 values are not finite"):
        allocate([logits], 5, coarse=True)
    with pytest.raises(ValueError, match=r"Tensions: 1 of 3 values are not finite"):
        allocate([torch.rand(6, 6)], 5, torch.tensor([0.5, wrong, 0.5]), coarse=True)


def test_an_allocation_holds_no_graph():
    tensions = TENSIONS.clone().requires_grad_()
    (allocation,) = allocate([torch.rand(3, 3, requires_grad=True)], 2, tensions)
    assert not any(part.requires_grad for part in allocation)
