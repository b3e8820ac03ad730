"""Choices that do not look: all alike, by chance, or evenly spread."""

import pytest
import torch

from lightning_arrcoc.relevance.allocation import keep_top
from lightning_arrcoc.relevance.baselines import Everything, RandomCells, UniformGrid
from lightning_arrcoc.relevance.baselines.blind import farthest_first

IMAGES = torch.rand(2, 3, 64, 160, generator=torch.Generator().manual_seed(0))
QUERY = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1))
MASK = torch.ones(2, 3, dtype=torch.bool)


def relevance_of(selector):
    return selector(IMAGES, QUERY, MASK).relevance


def test_everything_finds_every_cell_alike():
    assert relevance_of(Everything()).unique().tolist() == [0.5]


def test_random_cells_are_the_same_for_one_seed_call_by_call():
    one, other = RandomCells(seed=3), RandomCells(seed=3)
    for _ in range(3):
        assert relevance_of(one).equal(relevance_of(other))


def test_random_cells_differ_by_seed_by_call_by_image_and_by_cell():
    selector = RandomCells(seed=3)
    first, second = relevance_of(selector), relevance_of(selector)
    assert not first.equal(second)
    assert not first.equal(relevance_of(RandomCells(seed=4)))
    assert not first[0].equal(first[1])
    assert len(first.unique()) == first.numel()


def test_random_cells_neither_use_nor_disturb_torchs_own_generator():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    first = relevance_of(RandomCells())
    assert torch.rand(1).equal(expected)
    assert relevance_of(RandomCells()).equal(first)


def test_random_cells_are_chosen_equally_often():
    logits = RandomCells(seed=0).relevance_logit(1000, 4, 5, None)
    chosen = torch.zeros(20)
    for scores in logits.flatten(1):
        chosen[keep_top(scores, 5)] += 1
    # 250 each is expected, with a standard deviation of 14.
    assert chosen.sum() == 5000
    assert 190 < chosen.min() < chosen.max() < 310


def test_the_farthest_comes_first_by_hand():
    points = torch.tensor([[0.0], [1.0], [4.0], [9.0]])
    assert farthest_first(points, first=0).tolist() == [0, 3, 2, 1]  # 9, then 4, then 1


def test_points_that_coincide_are_all_taken_once():
    turns = farthest_first(torch.zeros(5, 2), first=2)
    assert turns[2] == 0
    assert sorted(turns.tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("rows", "columns"), [(12, 12), (7, 30), (1, 5), (1, 1)])
def test_the_grid_takes_every_cell_once_and_begins_in_the_middle(rows, columns):
    order = UniformGrid().relevance_logit(3, rows, columns, None)
    assert order.shape == (3, rows, columns)
    assert order[0].equal(order[2])
    assert sorted((-order[0]).flatten().tolist()) == list(range(rows * columns))
    y, x = divmod(int(order[0].argmax()), columns)
    assert abs(y - (rows - 1) / 2) <= 0.5
    assert abs(x - (columns - 1) / 2) <= 0.5


@pytest.mark.parametrize("budget", [4, 9, 16, 36])
def test_the_grid_leaves_no_large_hole(budget):
    """No cell is farther from a kept one than twice what an ideal spread would leave."""
    order = UniformGrid().relevance_logit(1, 12, 12, None)[0]
    kept = keep_top(order.flatten(), budget)
    place = torch.cartesian_prod(torch.arange(12), torch.arange(12)).float()
    hole = torch.cdist(place, place[kept]).amin(1).max()
    ideal = (144 / budget / 2) ** 0.5  # half the diagonal of a square that each would serve
    assert hole <= 2 * ideal
