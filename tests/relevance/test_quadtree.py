"""The tokens that are worth most together, against every choice there is."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_arrcoc.relevance.quadtree import DROPPED, REGION, split_regions

property_of = settings(deadline=None, max_examples=60, derandomize=True)
WORTHS = (0.0, 0.3, 0.5, 0.8, 0.99, 1.0)


@st.composite
def problems(draw):
    sides = st.integers(1, 9)
    shapes = draw(st.lists(st.tuples(sides, sides), min_size=1, max_size=2))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    sharpness = draw(st.sampled_from([1, 4, 12]))
    values = [torch.rand(shape, generator=random).double() ** sharpness for shape in shapes]
    worths = [draw(st.sampled_from(WORTHS)) for _ in values]
    return values, worths, draw(st.integers(1, sum(v.numel() for v in values)))


def most_of_a_cell(values, worth):
    """What a coarse token carries of one cell at most."""
    mean = float(torch.cat([value.flatten() for value in values]).mean())
    return worth / (1 - worth) * mean if worth < 1 else float("inf")


def worth_of(levels, values, worths):
    total = 0.0
    for level_map, value, worth in zip(levels, values, worths, strict=True):
        most = most_of_a_cell(values, worth)
        for row, column in (level_map != DROPPED).nonzero().tolist():
            level = int(level_map[row, column])
            part = value[row : row + 2**level, column : column + 2**level]
            total += worth**level * float((part.clamp(max=most) if level else part).sum())
    return total


def best_worth(values, worths, tokens):
    """The same by plain recursion and an exact knapsack over regions."""
    best = [0.0]
    for value, worth in zip(values, worths, strict=True):
        most = most_of_a_cell(values, worth)
        for top in range(0, value.shape[0], REGION):
            for left in range(0, value.shape[1], REGION):
                region = value[top : top + REGION, left : left + REGION].tolist()
                best = joined(best, offers(tuple(map(tuple, region)), 2, worth, most))
    return best[tokens]


@cache
def offers(cells, level, worth, most):
    """Best worth of a node for each number of tokens."""
    if level == 0:
        return [0.0, cells[0][0]]
    half = 2 ** (level - 1)
    best = [0.0]
    for rows in (cells[:half], cells[half:]):
        for part in (tuple(r[:half] for r in rows), tuple(r[half:] for r in rows)):
            if part and part[0]:
                best = joined(best, offers(part, level - 1, worth, most))
    best[1] = max(best[1], worth**level * sum(min(cell, most) for row in cells for cell in row))
    return best


def joined(one, other):
    best = [-1.0] * (len(one) + len(other) - 1)
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            best[i + j] = max(best[i + j], a + b)
    return best


@given(problems())
@property_of
def test_the_number_of_tokens_is_met_and_their_worth_is_all_but_the_greatest(problem):
    values, worths, tokens = problem
    levels = split_regions(values, worths, tokens)
    assert sum(int((level != DROPPED).sum()) for level in levels) == tokens
    best = best_worth(values, worths, tokens)
    reached = worth_of(levels, values, worths)
    assert reached <= best + 1e-9
    # What is left to gain lies inside a single step of a single region.
    largest = max(v[r : r + 4, c : c + 4].sum() for v in values for r in range(0, v.shape[0], 4)
                  for c in range(0, v.shape[1], 4))  # fmt: skip
    assert best - reached <= float(largest)


def test_over_many_images_next_to_nothing_is_lost():
    random = torch.Generator().manual_seed(0)
    lost = []
    for tokens in range(5, 140, 5):
        values = [torch.rand(12, 12, generator=random).double() ** 6]
        best = best_worth(values, [0.5], tokens)
        lost.append(1 - worth_of(split_regions(values, [0.5], tokens), values, [0.5]) / best)
    assert max(lost) < 0.01
    assert sorted(lost)[len(lost) // 2] < 1e-9


@given(problems())
@property_of
def test_without_worth_of_coarse_tokens_the_choice_is_the_greatest(problem):
    values, _, tokens = problem
    worths = [0.0] * len(values)
    reached = worth_of(split_regions(values, worths, tokens), values, worths)
    ranked = torch.cat([v.flatten() for v in values]).sort(descending=True).values
    assert reached == pytest.approx(float(ranked[:tokens].sum()))


def test_one_token_too_many_is_spent_where_it_costs_least():
    """All regions as one token each, and one more: it must not tear a relevant region apart."""
    values = torch.full((8, 8), 0.01, dtype=torch.float64)
    values[:4, :4] = 1.0
    values[7, 7] = 0.02
    (level,) = split_regions([values], [0.99], 5)
    assert level[0, 0] == 2
    assert int((level != DROPPED).sum()) == 5


def test_splits_begin_where_values_are_highest():
    values = torch.full((8, 8), 0.1, dtype=torch.float64)
    values[4:, :4] = 0.4
    (level,) = split_regions([values], [0.9], 7)
    tokens_by_region = (level != DROPPED).view(2, 4, 2, 4).sum((1, 3))
    assert tokens_by_region.tolist() == [[1, 1], [4, 1]]


def test_a_coarse_token_carries_little_of_a_cell_that_needs_its_detail():
    """Two regions of equal worth: what is spread evenly is merged, what is concentrated is not."""
    values = torch.zeros(4, 8, dtype=torch.float64)
    values[:, :4] = 1 / 16
    values[1, 5] = 0.5
    values[2, 6] = 0.5
    (level,) = split_regions([values], [0.6], 3)
    assert level[0, 0] == 2
    assert (level[1, 5], level[2, 6]) == (0, 0)


@pytest.mark.parametrize("compress", [0.0, 0.5, 1.0])
def test_an_image_of_no_worth_is_given_its_tokens_too(compress):
    (level,) = split_regions([torch.zeros(6, 5, dtype=torch.float64)], [compress], 25)
    assert int((level != DROPPED).sum()) == 25
