"""Attention mass is what eager attention shows where an answer is predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import Qwen3VLForConditionalGeneration

from lightning_arrcoc.vlm import ChatProcessor
from lightning_arrcoc.vlm.attention_mass import attend_answers
from lightning_arrcoc.vlm.loading import load_backbone

TURNS = (("Which digit is red?", "73"), ("How many digits are there?", "3"))
UNUSED = ("attention_mask", "query_mask")


@pytest.fixture(scope="module")
def processor(backbone_folder: Path) -> ChatProcessor:
    return ChatProcessor.from_pretrained(backbone_folder)


@pytest.fixture(scope="module")
def backbone(backbone_folder: Path) -> Qwen3VLForConditionalGeneration:
    return load_backbone(str(backbone_folder), dtype=torch.float32).requires_grad_(False)


def picture(seed: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    pixels = torch.randint(256, (size[1], size[0], 3), generator=torch.manual_seed(seed))
    return Image.fromarray(pixels.to(torch.uint8).numpy())


def encode(processor: ChatProcessor, *rows: Any, pack: bool = True) -> Any:
    return processor(
        [
            {"images": images, "questions": [q for q, _ in turns], "answers": [a for _, a in turns]}
            for images, turns in rows
        ],
        pack=pack,
    )


def mass(backbone: Qwen3VLForConditionalGeneration, batch: Any) -> torch.Tensor:
    return attend_answers(backbone, **{k: v for k, v in batch.items() if k not in UNUSED})


def test_mass_is_the_mean_over_layers_heads_and_predicting_positions(
    processor: ChatProcessor, backbone_folder: Path, backbone: Qwen3VLForConditionalGeneration
) -> None:
    """Each turn alone, by the stock model with its own mask."""
    eager = load_backbone(str(backbone_folder), dtype=torch.float32, attn_implementation="eager")
    shares = mass(backbone, encode(processor, ([picture(0)], TURNS)))
    packed = encode(processor, ([picture(0)], TURNS))["input_ids"][0]
    for turn, asked in enumerate(TURNS):
        batch = encode(processor, ([picture(0)], [asked]), pack=False)
        visual = batch["input_ids"][0] == backbone.config.image_token_id
        with torch.no_grad():
            output = eager(
                **{k: v for k, v in batch.items() if k != "query_mask"},
                mm_token_type_ids=visual[None].int(),
                output_attentions=True,
            )
        predicting = (batch["labels"][0, 1:] != -100).nonzero()[:, 0]
        seen = torch.stack(output.attentions)[:, 0].mean((0, 1))[predicting][:, visual].sum(0)
        mine = shares[0, turn, packed == backbone.config.image_token_id]
        torch.testing.assert_close(mine, seen / seen.sum(), atol=1e-5, rtol=1e-4)


def test_shares_add_up_to_one_over_the_visual_tokens_of_every_turn(
    processor: ChatProcessor, backbone: Qwen3VLForConditionalGeneration
) -> None:
    batch = encode(processor, ([picture(0)], TURNS), ([picture(1)], TURNS[:1]), ([], TURNS))
    shares = mass(backbone, batch)
    torch.testing.assert_close(shares.sum(-1), torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]]))
    visual = batch["input_ids"] == backbone.config.image_token_id
    assert bool((shares[~visual[:, None].expand_as(shares)] == 0).all())


def test_the_backbone_computes_attention_as_before_also_after_an_error(
    processor: ChatProcessor, backbone: Qwen3VLForConditionalGeneration
) -> None:
    batch = encode(processor, ([picture(0)], TURNS))
    mass(backbone, batch)
    assert backbone.config.text_config._attn_implementation == "sdpa"
    assert backbone.config.vision_config._attn_implementation == "sdpa"
    batch["image_grid_thw"] = batch["image_grid_thw"] * 2
    with pytest.raises(Exception):  # noqa: B017, PT011  # whatever transformers says to that
        mass(backbone, batch)
    assert backbone.config.text_config._attn_implementation == "sdpa"
