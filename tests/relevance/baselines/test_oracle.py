"""The oracle knows where the answer stands."""

import pytest
import torch

from lightning_arrcoc.relevance.allocation import keep_top
from lightning_arrcoc.relevance.baselines import Oracle
from lightning_arrcoc.relevance.baselines.oracle import truth_of_boxes


def test_a_box_is_shared_out_by_area():
    truth = truth_of_boxes([(0.5, 0.0, 1.5, 0.5)], rows=2, columns=3)
    assert truth.tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    both = truth_of_boxes([(0.0, 0.0, 1.0, 1.0), (2.0, 1.0, 3.0, 2.0)], rows=2, columns=3)
    assert both.tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]


def test_the_answer_comes_first_then_what_is_beside_it():
    oracle = Oracle()
    oracle.truth = truth_of_boxes([(2.2, 1.0, 3.2, 2.0)], rows=4, columns=6)[None]
    order = oracle.relevance_logit(1, 4, 6, None)[0].flatten()
    assert keep_top(order, 1).tolist() == [8]
    assert keep_top(order, 2).tolist() == [8, 9]
    around = {r * 6 + c for r in range(3) for c in range(1, 5)}
    assert set(keep_top(order, 12).tolist()) == around


@pytest.mark.parametrize("truth", [None, torch.zeros(1, 3, 4)])
def test_a_truth_that_does_not_fit_is_refused(truth):
    oracle = Oracle()
    oracle.truth = truth
    with pytest.raises(ValueError, match=r"Oracle.truth has shape .* expected \(2, 4, 6\)"):
        oracle.relevance_logit(2, 4, 6, None)
