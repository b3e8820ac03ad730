"""Maps from outside are taken as they are; the oracle's shows where the answer stands."""

import pytest
import torch

from lightning_arrcoc.relevance.allocation import keep_top
from lightning_arrcoc.relevance.baselines import Given, oracle_map


def test_a_box_is_shared_out_by_area():
    half = oracle_map([(0.5, 0.0, 1.5, 0.5)], rows=3, columns=4)
    torch.testing.assert_close(half[0], torch.tensor([0.5, 0.5, 0.0, 0.0]), atol=1e-3, rtol=0)
    assert half[2].eq(0).all()
    both = oracle_map([(0.0, 0.0, 1.0, 1.0), (3.0, 2.0, 4.0, 3.0)], rows=3, columns=4)
    assert both[0, 0] == both[2, 3] == both.max() > 1


def test_the_answer_comes_first_then_what_is_beside_it():
    order = oracle_map([(2.2, 1.0, 3.2, 2.0)], rows=4, columns=6).flatten()
    assert keep_top(order, 1).tolist() == [8]
    assert keep_top(order, 2).tolist() == [8, 9]
    around = {row * 6 + column for row in range(3) for column in range(1, 5)}
    assert set(keep_top(order, 12).tolist()) == around


def test_given_maps_are_taken_as_they_are():
    given = Given()
    given.maps = torch.rand(2, 3, 4)
    assert given.relevance_logit(2, 3, 4, None).equal(given.maps)


@pytest.mark.parametrize("maps", [None, torch.zeros(1, 3, 4)])
def test_maps_that_do_not_fit_are_refused(maps):
    given = Given()
    given.maps = maps
    with pytest.raises(ValueError, match=r"Given.maps has shape .* expected \(2, 4, 6\)"):
        given.relevance_logit(2, 4, 6, None)
