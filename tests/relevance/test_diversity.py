"""Look-alikes of what is more relevant lose by the tension focus, and nothing else does."""

import pytest
import torch

from lightning_arrcoc.relevance import ImageRelevance, TokenAllocator
from lightning_arrcoc.relevance.diversity import ALIKE, unlike


def image(logits, looks, focus):
    return ImageRelevance(logits, torch.tensor([0.5, 0.0, focus]), looks)


@pytest.fixture
def twins():
    """Three cells that look the same, two that look like nothing else; relevance falls."""
    logits = torch.tensor([[4.0, 3.9, 3.8, 1.0, 0.9]])
    looks = torch.tensor([[0.0, 0.0, 0.0, 3.0, -3.0], [1.0, 1.0, 1.0, 0.0, 0.0]])[:, None]
    return logits, looks


def lowered(logits, looks, focus, tokens=4):
    return unlike([image(logits, looks, focus)], logits.flatten().double(), tokens)


def test_by_hand(twins):
    factor = lowered(*twins, focus=0.25).exp()
    torch.testing.assert_close(
        factor, torch.tensor([1, 0.25075, 0.25075, 1, 1]).double(), atol=1e-6, rtol=0
    )


def test_full_focus_changes_nothing_and_less_focus_lowers_more(twins):
    assert lowered(*twins, focus=1.0).tolist() == [0] * 5
    falls = [float(lowered(*twins, focus=focus)[1]) for focus in (0.9, 0.5, 0.1, 0.0)]
    assert falls == sorted(falls, reverse=True)
    assert falls[0] < 0


def test_less_focus_gives_the_tokens_of_copies_to_what_looks_different(twins):
    _, looks = twins
    logits = torch.tensor([[4.0, 3.9, 3.8, 3.0, 2.9]])
    kept = {
        focus: TokenAllocator(3)([image(logits, looks, focus)])[0].cells.tolist()
        for focus in (1.0, 0.0)
    }
    assert kept == {1.0: [0, 1, 2], 0.0: [0, 3, 4]}


def test_a_copy_loses_its_share_and_not_its_log_odds(twins):
    """A thousandth of a share is 1.7 log-odds at the usual temperature, not 6.9."""
    _, looks = twins
    logits = torch.tensor([[4.0, 3.9, 3.8, 2.0, 1.9]])
    kept = [
        TokenAllocator(3, temperature=t)([image(logits, looks, 0.0)])[0].cells.tolist()
        for t in (0.25, 0.5)
    ]
    assert kept == [[0, 1, 2], [0, 3, 4]]


def test_similarity_fades_with_the_distance_of_looks():
    logits = torch.tensor([[2.0, 1.0]])
    near = torch.tensor([[[0.0, ALIKE]]])
    far = torch.tensor([[[0.0, 8 * ALIKE]]])
    lost = 1 - lowered(logits, near, 0.0, 2).exp()
    assert float(lost[1]) == pytest.approx(0.999 * torch.tensor(-0.5).exp().item())
    assert float(lowered(logits, far, 0.0, 2)[1]) == pytest.approx(0, abs=1e-9)


def test_only_what_would_be_kept_counts_as_chosen(twins):
    """With one token nobody but the most relevant cell can be copied."""
    logits, looks = twins
    looks = looks.clone()
    looks[:, 0, 1] = 9.0  # the second is a loner; the third is a copy of the first
    assert lowered(logits, looks, 0.0, 1)[2] < -1
    looks[:, 0, 2] = 9.0  # now of the second, which one token would not keep
    assert float(lowered(logits, looks, 0.0, 1)[2]) == pytest.approx(0, abs=1e-9)
    assert lowered(logits, looks, 0.0, 2)[2] < -1


def test_a_copy_in_another_image_of_the_sample_counts(twins):
    logits, looks = twins
    found = [image(logits, looks, 0.0), image(logits - 0.01, looks, 1.0)]
    both = torch.cat([image.logits.flatten() for image in found]).double()
    first, second = unlike(found, both, 8).split(5)
    assert first[1] < -1
    assert second.tolist() == [0] * 5  # that image is focused


def test_nothing_is_lowered_where_no_image_says_what_its_cells_look_like(twins):
    logits, _ = twins
    assert unlike([image(logits, None, 0.0)], logits.flatten().double(), 3).tolist() == [0] * 5


def test_one_image_that_does_not_say_keeps_all_as_they_are(twins):
    logits, looks = twins
    found = [image(logits, looks, 0.0), image(logits, None, 0.0)]
    assert unlike(found, torch.cat([logits, logits]).flatten().double(), 4).tolist() == [0] * 10


def test_copies_are_found_under_autocast(twins):
    logits, looks = twins
    expected = lowered(logits, 20 + looks, 0.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert lowered(logits, 20 + looks, 0.0).equal(expected)


def test_the_order_of_copies_is_kept(twins):
    logits, looks = twins
    whole = logits.flatten().double() + 0.25 * lowered(logits, looks, 0.0)
    assert whole[1] > whole[2]
