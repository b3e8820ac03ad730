"""Baselines stand in for the realizer: same call, same answer."""

import pytest
import torch

from lightning_arrcoc.relevance import Previous, build_realizer
from lightning_arrcoc.relevance.baselines import (
    DivPruneLike,
    EdgeSaliency,
    Everything,
    PixelPruneLike,
    RandomCells,
    UniformGrid,
)
from lightning_arrcoc.relevance.realizer import Realization

QUERY_DIM = 6
BLIND = {"everything": Everything, "random": RandomCells, "grid": UniformGrid}
LOOKING = {"edges": EdgeSaliency, "pixelprune": PixelPruneLike, "divprune": DivPruneLike}
SELECTORS = {"realizer": lambda: build_realizer(QUERY_DIM), **BLIND, **LOOKING}
IMAGES = torch.rand(2, 3, 64, 160, generator=torch.Generator().manual_seed(0))
QUERY = torch.randn(2, 3, QUERY_DIM, generator=torch.Generator().manual_seed(1))
MASK = torch.ones(2, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("name", "textures_only"),
    [*((name, False) for name in SELECTORS), *((name, True) for name in ("realizer", *BLIND))],
)
def test_every_selector_answers_the_same_interface(name, textures_only):
    selector = SELECTORS[name]()
    if textures_only:
        found = selector(None, QUERY, MASK, textures_ICHW=torch.rand(2, 13, 2, 5))
    else:
        found = selector(IMAGES, QUERY, MASK)
    assert isinstance(found, Realization)
    assert found.textures.shape[2:] == (2, 5)
    assert found.scores.shape == (2, 3, 2, 5)
    assert found.tensions.shape == (2, 3)
    assert found.relevance.shape == found.relevance_logit.shape == (2, 2, 5)
    assert {values.dtype for values in found[:4]} == {torch.float32}
    for share in (found.scores, found.tensions, found.relevance):
        assert 0 <= share.min() <= share.max() <= 1
    allocations = selector.allocator([found.image(i) for i in range(2)], 7)
    assert sum(len(allocation.cells) for allocation in allocations) == 7


@pytest.mark.parametrize("make", [*BLIND.values(), *LOOKING.values()], ids=[*BLIND, *LOOKING])
def test_a_baseline_is_told_of_the_turn_before_and_does_not_mind(make):
    before = Previous(1 - IMAGES, torch.rand(2, 2, 5), torch.rand(2, 2, 5))
    found, plain = make()(IMAGES, QUERY, MASK, None, before), make()(IMAGES, QUERY, MASK)
    assert found.relevance_logit.equal(plain.relevance_logit)
    assert found.seen is None


@pytest.mark.parametrize("make", BLIND.values(), ids=BLIND)
def test_a_baseline_with_neither_images_nor_textures_says_so(make):
    with pytest.raises(ValueError, match="Neither images nor textures"):
        make()(None, QUERY, MASK)


@pytest.mark.parametrize("make", [*BLIND.values(), *LOOKING.values()], ids=[*BLIND, *LOOKING])
def test_baselines_have_nothing_to_learn_or_to_load(make):
    assert not list(make().parameters())
    assert not make().state_dict()
