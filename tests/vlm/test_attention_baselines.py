"""Attention taken from the backbone is the backbone's own, and taking it changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lightning_arrcoc import ArrCocQwen3VL
from lightning_arrcoc.vlm.attention_baselines import (
    fastv_maps,
    recorded_attention,
    visionzip_maps,
)


@pytest.fixture(scope="module")
def model(backbone_folder: Path) -> ArrCocQwen3VL:
    return ArrCocQwen3VL.from_pretrained(str(backbone_folder))


def picture(seed: int, size: tuple[int, int]) -> Image.Image:
    pixels = torch.randint(256, (size[1], size[0], 3), generator=torch.manual_seed(seed))
    return Image.fromarray(pixels.to(torch.uint8).numpy())


def prompts(model: ArrCocQwen3VL, *sizes: tuple[int, int]) -> Any:
    assert model.processor is not None
    question = "Which digit is red?"  # of another length for each, so that rows are padded
    return model.processor(
        [
            {"images": [picture(i, size)], "questions": [question * (i + 1)], "answers": []}
            for i, size in enumerate(sizes)
        ]
    )


def inputs(batch: Any, *names: str) -> Any:
    return [batch[name] for name in names]


@torch.no_grad()
def test_recording_leaves_the_towers_answer_as_it_is(model: ArrCocQwen3VL) -> None:
    visual = model.backbone.model.visual
    batch = prompts(model, (96, 64), (64, 64))
    patches, grid = inputs(batch, "pixel_values", "image_grid_thw")
    before = visual(patches, grid_thw=grid, return_dict=True).pooler_output
    with recorded_attention(visual) as records:
        during = visual(patches, grid_thw=grid, return_dict=True).pooler_output
    torch.testing.assert_close(during, before, atol=1e-5, rtol=1e-4)
    assert len(records) == 2 * len(visual.blocks)
    assert torch.equal(visual(patches, grid_thw=grid, return_dict=True).pooler_output, before)


def test_visionzip_maps_are_attention_received_in_the_last_layer_but_one(
    model: ArrCocQwen3VL,
) -> None:
    visual = model.backbone.model.visual
    batch = prompts(model, (96, 64), (64, 64))
    maps = visionzip_maps(model.backbone, *inputs(batch, "pixel_values", "image_grid_thw"))
    assert [tuple(found.shape) for found in maps] == [(2, 3), (2, 2)]
    for found in maps:  # the mean over queries of shares that add up to 1, over four patches
        assert float(found.sum()) == pytest.approx(0.25, abs=1e-5)
    with torch.no_grad(), recorded_attention(visual) as records:
        visual(batch["pixel_values"], grid_thw=batch["image_grid_thw"], return_dict=True)
    by_layer = [record for record in records if len(record) == 24]
    torch.testing.assert_close(maps[0].flatten(), by_layer[-2].view(-1, 4).mean(1))


def test_an_image_is_attended_as_if_it_were_alone(model: ArrCocQwen3VL) -> None:
    both = prompts(model, (96, 64), (64, 64))
    together = visionzip_maps(model.backbone, *inputs(both, "pixel_values", "image_grid_thw"))
    alone = visionzip_maps(model.backbone, both["pixel_values"][:24], both["image_grid_thw"][:1])
    torch.testing.assert_close(together[0], alone[0])


def test_fastv_maps_are_the_last_tokens_attention_in_the_second_layer(
    model: ArrCocQwen3VL,
) -> None:
    names = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")
    both = prompts(model, (96, 64), (64, 64))
    maps = fastv_maps(model.backbone, *inputs(both, *names))
    assert [tuple(found.shape) for found in maps] == [(2, 3), (2, 2)]
    assert all(0 < float(found.sum()) < 1 for found in maps)
    alone = fastv_maps(model.backbone, *inputs(prompts(model, (96, 64)), *names))
    torch.testing.assert_close(maps[0], alone[0], atol=1e-5, rtol=1e-3)


@torch.no_grad()
def test_asking_for_attention_leaves_the_backbone_as_it_was(model: ArrCocQwen3VL) -> None:
    names = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")
    batch = prompts(model, (96, 64))
    before = model(**batch, budget=1.0).logits
    fastv_maps(model.backbone, *inputs(batch, *names))
    visionzip_maps(model.backbone, *inputs(batch, "pixel_values", "image_grid_thw"))
    assert torch.equal(model(**batch, budget=1.0).logits, before)
