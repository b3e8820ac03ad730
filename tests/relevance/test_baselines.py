"""Baselines stand in for the realizer: same call, same answer."""

import pytest
import torch

from lightning_arrcoc.relevance import build_realizer
from lightning_arrcoc.relevance.allocation import keep_top
from lightning_arrcoc.relevance.baselines import Everything, RandomCells
from lightning_arrcoc.relevance.realizer import Realization

QUERY_DIM = 6
SELECTORS = {
    "realizer": lambda: build_realizer(QUERY_DIM),
    "everything": Everything,
    "random": RandomCells,
}
IMAGES = torch.rand(2, 3, 64, 160, generator=torch.Generator().manual_seed(0))
QUERY = torch.randn(2, 3, QUERY_DIM, generator=torch.Generator().manual_seed(1))
MASK = torch.ones(2, 3, dtype=torch.bool)


def relevance_of(selector):
    return selector(IMAGES, QUERY, MASK).relevance


@pytest.mark.parametrize("make", SELECTORS.values(), ids=SELECTORS)
@pytest.mark.parametrize("textures_only", [False, True])
def test_every_selector_answers_the_same_interface(make, textures_only):
    selector = make()
    if textures_only:
        found = selector(None, QUERY, MASK, textures_ICHW=torch.rand(2, 13, 2, 5))
    else:
        found = selector(IMAGES, QUERY, MASK)
    assert isinstance(found, Realization)
    assert found.textures.shape[2:] == (2, 5)
    assert found.scores.shape == (2, 3, 2, 5)
    assert found.tensions.shape == (2, 3)
    assert found.relevance.shape == found.relevance_logit.shape == (2, 2, 5)
    assert {values.dtype for values in found} == {torch.float32}
    for share in (found.scores, found.tensions, found.relevance):
        assert 0 <= share.min() <= share.max() <= 1
    allocations = selector.allocator(found.relevance_logit, found.tensions, 7)
    assert sum(len(allocation.cells) for allocation in allocations) == 7


@pytest.mark.parametrize("make", [Everything, RandomCells])
def test_a_baseline_with_neither_images_nor_textures_says_so(make):
    with pytest.raises(ValueError, match="Neither images nor textures"):
        make()(None, QUERY, MASK)


@pytest.mark.parametrize("make", [Everything, RandomCells])
def test_baselines_have_nothing_to_learn_or_to_load(make):
    assert not list(make().parameters())
    assert not make().state_dict()


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
