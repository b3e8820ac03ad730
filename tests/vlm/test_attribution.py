"""Attribution is the gradient of each answer's loss by the gates on its visual tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import Qwen3VLForConditionalGeneration

from lightning_arrcoc.vlm import ChatProcessor
from lightning_arrcoc.vlm.attribution import attribute_answers
from lightning_arrcoc.vlm.loading import load_backbone
from lightning_arrcoc.vlm.packing import forward_packed

TURNS = (("Which digit is red?", "7"), ("How many digits are there?", "3"))
STEP = 0.02  # the loss is summed in fp32, whatever the weights are


@pytest.fixture(scope="module")
def processor(backbone_folder: Path) -> ChatProcessor:
    return ChatProcessor.from_pretrained(backbone_folder)


@pytest.fixture(scope="module")
def backbone(backbone_folder: Path) -> Qwen3VLForConditionalGeneration:
    made = load_backbone(str(backbone_folder), dtype=torch.float64)
    return made.requires_grad_(False)


def picture(seed: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    pixels = torch.randint(256, (size[1], size[0], 3), generator=torch.manual_seed(seed))
    return Image.fromarray(pixels.to(torch.uint8).numpy())


def encode(processor: ChatProcessor, *rows: Any) -> dict[str, torch.Tensor]:
    """Rows of (images, turns), packed."""
    batch = processor(
        [
            {"images": images, "questions": [q for q, _ in turns], "answers": [a for _, a in turns]}
            for images, turns in rows
        ],
        pack=True,
    )
    return {key: batch[key] for key in batch if key not in ("attention_mask", "query_mask")}


def test_shares_add_up_to_one_over_the_visual_tokens_of_every_turn(
    processor: ChatProcessor, backbone: Qwen3VLForConditionalGeneration
) -> None:
    batch = encode(
        processor,
        ([picture(0)], TURNS),
        ([picture(1), picture(2, (64, 64))], TURNS[:1]),
        ([], TURNS),
    )
    shares = attribute_answers(backbone, **batch)
    assert shares.shape == (3, 2, batch["input_ids"].shape[1])
    torch.testing.assert_close(shares.sum(-1), torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]]))
    visual = batch["input_ids"] == backbone.config.image_token_id
    assert bool((shares[~visual[:, None].expand_as(shares)] == 0).all())
    assert bool((shares[visual[:, None].expand_as(shares)] >= 0).all())


@pytest.mark.parametrize("closed", [0.0, 3.0])
def test_shares_are_those_of_finite_differences(
    processor: ChatProcessor, backbone: Qwen3VLForConditionalGeneration, closed: float
) -> None:
    batch = encode(processor, ([picture(0)], TURNS))
    place = torch.zeros(1, 2, batch["input_ids"].shape[1], dtype=torch.float64)
    place[..., ::2] = -closed * (batch["input_ids"] == backbone.config.image_token_id)[..., ::2]
    shares = attribute_answers(backbone, **batch, key_bias=place if closed else None)
    columns = (batch["input_ids"][0] == backbone.config.image_token_id).nonzero()[:, 0]
    for turn in range(len(TURNS)):
        slopes = []
        for column in columns:
            losses = []
            for sign in (1, -1):
                bias = place.clone()
                bias[0, turn, column] += sign * STEP
                with torch.no_grad():
                    losses.append(forward_packed(backbone, **batch, key_bias=bias).loss)
            slopes.append((losses[0] - losses[1]).abs() / (2 * STEP))
        expected = (torch.stack(slopes) / torch.stack(slopes).sum()).float()
        torch.testing.assert_close(shares[0, turn, columns], expected, atol=1e-3, rtol=0.02)


def test_a_turn_is_attributed_as_if_it_were_alone(
    processor: ChatProcessor, backbone: Qwen3VLForConditionalGeneration
) -> None:
    image = picture(0)
    together = attribute_answers(
        backbone, **encode(processor, ([image], TURNS), ([picture(5, (128, 128))], TURNS[:1]))
    )
    alone = encode(processor, ([image], TURNS[1:]))
    single = attribute_answers(backbone, **alone)
    visual = alone["input_ids"][0] == backbone.config.image_token_id
    padding = together.shape[-1] - encode(processor, ([image], TURNS))["input_ids"].shape[1]
    columns = visual.nonzero()[:, 0]
    torch.testing.assert_close(together[0, 1, padding + columns], single[0, 0, columns])


def test_another_question_is_read_elsewhere(
    processor: ChatProcessor, backbone: Qwen3VLForConditionalGeneration
) -> None:
    shares = attribute_answers(backbone, **encode(processor, ([picture(0)], TURNS)))
    assert float((shares[0, 0] - shares[0, 1]).abs().max()) > 1e-3


def test_it_works_where_gradients_are_off_and_leaves_none_behind(
    processor: ChatProcessor, backbone: Qwen3VLForConditionalGeneration
) -> None:
    with torch.no_grad():
        shares = attribute_answers(backbone, **encode(processor, ([picture(0)], TURNS)))
    assert float(shares.sum()) == pytest.approx(2)
    assert all(parameter.grad is None for parameter in backbone.parameters())
