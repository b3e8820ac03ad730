"""A smaller image is what the processor would have made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lightning_arrcoc.vlm import ArrCocQwen3VL
from lightning_arrcoc.vlm.downsampling import MOST_STRETCH, downsample, smaller_grid

SIDES = st.integers(1, 40)


@given(SIDES, SIDES, st.integers(1, 1600))
def test_a_smaller_grid_fits_the_budget_and_the_image(rows: int, columns: int, tokens: int) -> None:
    height, width = smaller_grid(rows, columns, tokens)
    assert 1 <= height <= rows
    assert 1 <= width <= columns
    assert height * width <= max(tokens, 1)


@given(st.integers(4, 40), st.integers(4, 40), st.integers(16, 400))
def test_a_smaller_grid_spends_most_of_the_budget(rows: int, columns: int, tokens: int) -> None:
    height, width = smaller_grid(rows, columns, tokens)
    stretch = max(height * columns / (width * rows), width * rows / (height * columns))
    if stretch <= MOST_STRETCH:
        assert height * width >= 0.5 * min(tokens, rows * columns)


@pytest.mark.parametrize(
    ("grid", "tokens", "expected"),
    [((12, 12), 36, (6, 6)), ((12, 12), 14, (4, 3)), ((12, 12), 7, (2, 3)), ((5, 5), 99, (5, 5))],
)
def test_a_smaller_grid_by_hand(
    grid: tuple[int, int], tokens: int, expected: tuple[int, int]
) -> None:
    found = smaller_grid(*grid, tokens)
    assert sorted(found) == sorted(expected)


@pytest.fixture(scope="module")
def model(backbone_folder: Path) -> ArrCocQwen3VL:
    return ArrCocQwen3VL.from_pretrained(str(backbone_folder)).eval()


def prompts(model: ArrCocQwen3VL, *sizes: tuple[int, int], question: str = "Which?") -> Any:
    assert model.processor is not None
    ramp = [Image.linear_gradient("L").resize(size).convert("RGB") for size in sizes]
    return model.processor(
        [{"images": [image], "questions": [question], "answers": []} for image in ramp]
    )


def test_a_downsampled_batch_equals_processing_the_small_image(model: ArrCocQwen3VL) -> None:
    small = downsample(prompts(model, (256, 256)), 16, model)
    expected = prompts(model, (128, 128))
    assert torch.equal(small["input_ids"], expected["input_ids"])
    assert torch.equal(small["image_grid_thw"], expected["image_grid_thw"])
    assert torch.equal(small["query_mask"], expected["query_mask"])
    # two resamplings of a ramp differ by rounding only
    torch.testing.assert_close(small["pixel_values"], expected["pixel_values"], atol=0.05, rtol=0)


def test_an_image_within_the_budget_stays_as_it_is(model: ArrCocQwen3VL) -> None:
    batch = prompts(model, (64, 64))
    small = downsample(batch, 1.0, model)
    assert torch.equal(small["input_ids"], batch["input_ids"])
    torch.testing.assert_close(small["pixel_values"], batch["pixel_values"], atol=1e-6, rtol=0)


def test_rows_of_different_images_are_padded_anew(model: ArrCocQwen3VL) -> None:
    small = downsample(prompts(model, (256, 256), (64, 64)), 0.25, model)
    visual = small["input_ids"] == model.backbone.config.image_token_id
    assert visual.sum(1).tolist() == [16, 1]
    assert small["attention_mask"].sum(1).diff().item() == -15
    with torch.no_grad():
        assert model(**small, budget=1.0).logits.isfinite().all()


def test_several_images_in_a_sample_are_refused(model: ArrCocQwen3VL) -> None:
    assert model.processor is not None
    image = Image.new("RGB", (64, 64))
    batch = model.processor([{"images": [image, image], "questions": ["a"], "answers": []}])
    with pytest.raises(ValueError, match="several images"):
        downsample(batch, 1, model)
