"""Pruned sequences by hand."""

from __future__ import annotations

import pytest
import torch

from lightning_arrcoc.vlm.sequence import biased_causal_mask, find_question, prune_sequence

IDS = torch.tensor([[0, 0, 5, 9, 9, 9, 6, 7], [4, 5, 9, 9, 9, 9, 6, 7]])  # 9 is an image token
KEEP = torch.tensor([[0, 0, 1, 0, 1, 0, 1, 1], [1, 1, 0, 1, 1, 0, 1, 1]]).bool()
POSITIONS = torch.arange(8).expand(3, 2, 8) + 10 * torch.arange(3)[:, None, None]
LABELS = torch.where(IDS == 9, -100, IDS)


def prune(side: str):
    return prune_sequence(IDS, KEEP, POSITIONS, LABELS, pad_token=1, padding_side=side)


def test_gaps_close_to_the_right_under_left_padding() -> None:
    pruned = prune("left")
    assert pruned.input_ids.tolist() == [[1, 1, 5, 9, 6, 7], [4, 5, 9, 9, 6, 7]]
    assert pruned.attention_mask.tolist() == [[0, 0, 1, 1, 1, 1], [1] * 6]


def test_gaps_close_to_the_left_under_right_padding() -> None:
    pruned = prune("right")
    assert pruned.input_ids.tolist() == [[5, 9, 6, 7, 1, 1], [4, 5, 9, 9, 6, 7]]
    assert pruned.attention_mask.tolist() == [[1, 1, 1, 1, 0, 0], [1] * 6]


@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_stay_as_they_were_and_text_order_has_no_gaps(side: str) -> None:
    pruned = prune(side)
    text, rows = pruned.position_ids[0], pruned.position_ids[2]
    assert text[1].tolist() == [0, 1, 2, 3, 4, 5]
    assert text[0][pruned.attention_mask[0].bool()].tolist() == [0, 1, 2, 3]
    assert rows[1].tolist() == [10, 11, 13, 14, 16, 17]
    assert rows[0][pruned.attention_mask[0].bool()].tolist() == [12, 14, 16, 17]
    assert pruned.position_ids.dtype == torch.long


def test_a_rows_first_token_is_never_a_target() -> None:
    pruned = prune("left")
    assert pruned.labels is not None
    assert pruned.labels.tolist() == [[-100, -100, -100, -100, 6, 7], [-100, 5, -100, -100, 6, 7]]


def test_no_labels_stay_no_labels() -> None:
    pruned = prune_sequence(IDS, KEEP, POSITIONS, None, pad_token=1, padding_side="left")
    assert pruned.labels is None


def test_the_mask_is_causal_biased_and_finite() -> None:
    mask = biased_causal_mask(
        torch.tensor([[0, 1, 1]]), torch.tensor([[0.0, -2.0, 0.0]]), torch.float32
    )[0, 0]
    lowest = torch.finfo(torch.float32).min / 2
    assert mask.tolist() == [
        [lowest, lowest, lowest],
        [lowest, -2.0, lowest],
        [lowest, -2.0, 0.0],
    ]


def test_a_bias_beyond_the_numbers_range_stays_finite() -> None:
    mask = biased_causal_mask(torch.ones(1, 2), torch.full((1, 2), -1e30), torch.bfloat16)
    assert bool(mask.isfinite().all())


@pytest.mark.parametrize(
    ("row", "question"),
    [
        ([3, 9, 9, 8, 5, 6, 2, 4, 7, 2], [4, 5]),  # 8 closes the image, 2 ends a turn
        ([3, 9, 8, 5, 2, 3, 9, 8, 6, 2], [8]),  # the last image counts
        ([0, 0, 9, 8, 5, 6, 7, 5, 6, 7], [4, 5, 6, 7, 8, 9]),  # the turn is still open
        ([3, 5, 6, 2, 3, 5, 6, 2, 5, 5], []),  # no image, no question
        ([3, 9, 8, 2, 5, 5, 5, 5, 5, 5], []),  # nothing was asked
    ],
)
def test_the_question_is_the_text_behind_the_last_image(
    row: list[int], question: list[int]
) -> None:
    ids = torch.tensor([row])
    found = find_question(ids, (ids != 0).long(), image_token=9, ends=[2])
    assert found[0].nonzero()[:, 0].tolist() == question
