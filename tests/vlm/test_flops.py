"""Counted from the configuration = counted while the model runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lightning_arrcoc.relevance.baselines import RandomCells
from lightning_arrcoc.vlm import ArrCocQwen3VL
from lightning_arrcoc.vlm.flops import language_flops, vision_flops

GRID, CELLS, TEXT = (8, 12), 24, 11  # patches, two by two a cell
# The rotary angles of the language model come from a matrix product with one inner element.
ROTATIONS = 1e-3


@pytest.fixture(scope="module")
def model(backbone_folder: Path) -> ArrCocQwen3VL:
    torch.manual_seed(0)
    made = ArrCocQwen3VL.from_pretrained(str(backbone_folder), attn_implementation="eager")
    made.requires_grad_(False)
    for weight in made.backbone.model.language_model.parameters():
        weight.requires_grad_(weight.ndim == 1)  # the norms: gradients reach the first layer
    return made.eval()


def batch(model: ArrCocQwen3VL) -> dict[str, Any]:
    config = model.backbone.config
    image = [config.vision_start_token_id, *[config.image_token_id] * CELLS]
    ids = torch.tensor([[*image, config.vision_end_token_id, *range(5, 3 + TEXT)]])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(4 * CELLS, 1536, generator=torch.manual_seed(0)),
        "image_grid_thw": torch.tensor([[1, *GRID]]),
    }


@pytest.mark.parametrize("job", ["prefill", "step"])
@pytest.mark.parametrize(
    ("select", "budget"),
    [("stock", None), ("after_vision", 6), ("before_vision", 6), ("before_vision", 17)],
)
def test_what_is_counted_is_what_runs(
    model: ArrCocQwen3VL, select: str, budget: int | None, job: str
) -> None:
    inputs = batch(model)
    options: dict[str, Any] = {"logits_to_keep": 1}
    if job == "step":
        options = {"labels": inputs["input_ids"], "use_cache": False}
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(job == "step"):
        if budget is None:
            image = inputs["input_ids"] == model.backbone.config.image_token_id
            output = model.backbone(**inputs, **options, mm_token_type_ids=image.int())
        else:
            model.select = select  # type: ignore[assignment]
            # This selector multiplies no matrices.
            output = model(**inputs, **options, budget=budget, selector=RandomCells())
        if job == "step":
            output.loss.backward()

    kept = budget or CELLS
    tokens = kept + TEXT
    config = model.backbone.config
    vision = vision_flops(config.vision_config, 4 * (kept if select == "before_vision" else CELLS))
    language = language_flops(config.text_config, tokens, 1 if job == "prefill" else tokens)
    counted = vision.forward + language.forward + (language.backward if job == "step" else 0)
    assert counter.get_total_flops() == pytest.approx(counted, rel=ROTATIONS)
    assert counter.get_total_flops() >= counted


def test_the_vision_tower_is_counted_to_the_last_product(model: ArrCocQwen3VL) -> None:
    inputs = batch(model)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.backbone.model.visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"])
    counted = vision_flops(model.backbone.config.vision_config, 4 * CELLS)
    assert counter.get_total_flops() == counted.forward
