"""Tokens of several cells, put together by hand and given to the stock model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_arrcoc.relevance import Allocation, ImageRelevance
from lightning_arrcoc.relevance.baselines import Everything
from lightning_arrcoc.vlm import ArrCocQwen3VL
from lightning_arrcoc.vlm.patches import fold_patches, unfold_patches
from lightning_arrcoc.vlm.vision import VisualTokens, position_taps

ROWS, COLUMNS = 4, 6  # cells
SELECT = ("before_vision", "after_vision")


class Fixed(nn.Module):
    """An allocator that has made up its mind."""

    def __init__(self, allocation: Allocation) -> None:
        super().__init__()
        self.allocation = allocation

    def forward(
        self, found: Sequence[ImageRelevance], budget: int | float | None
    ) -> list[Allocation]:
        return [self.allocation]


def always(allocation: Allocation) -> Any:
    selector: Any = Everything()
    selector.allocator = Fixed(allocation)
    return selector


def blocks(level: int, rows: int = ROWS, columns: int = COLUMNS) -> Allocation:
    """The whole image in tokens of one level."""
    step = 2**level
    first = torch.cartesian_prod(torch.arange(0, rows, step), torch.arange(0, columns, step))
    last = (first + step).minimum(torch.tensor([rows, columns])) - 1
    return Allocation(
        (first + last) / 2, torch.full((len(first),), level), torch.ones(1, 1),
        torch.zeros(rows, columns), torch.zeros(3),
    )  # fmt: skip


@pytest.fixture
def model(backbone_folder: Path) -> ArrCocQwen3VL:
    torch.manual_seed(0)
    return ArrCocQwen3VL.from_pretrained(str(backbone_folder), select="after_vision").eval()


def encode(model: ArrCocQwen3VL, answers: Sequence[str] = ("7",)) -> dict[str, Any]:
    coarse = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((COLUMNS * 32, ROWS * 32))
    assert model.processor is not None
    return model.processor(
        [{"images": [image], "questions": ["Which digit is red?"], "answers": list(answers)}]
    )


def by_hand(
    model: ArrCocQwen3VL, batch: dict[str, Any], features: VisualTokens, shape: tuple[int, int]
) -> Tensor:
    """The stock model's logits on features of a grid of tokens that cover 2 x 2 cells each."""
    ids = batch["input_ids"][0]
    visual = (ids == model.backbone.config.image_token_id).nonzero()[:, 0]
    begin, behind, tokens = int(visual[0]), int(visual[-1]) + 1, shape[0] * shape[1]
    short = torch.cat([ids[:begin], ids[visual[:tokens]], ids[behind:]])
    place = torch.cartesian_prod(torch.arange(shape[0]), torch.arange(shape[1]))
    image = begin + torch.cat([torch.zeros(tokens, 1), 2 * place + 0.5], 1).T
    before = torch.arange(begin).expand(3, -1).float()
    # Text goes on behind the longer side of the whole grid.
    after = (begin + max(ROWS, COLUMNS) + torch.arange(len(ids) - behind)).expand(3, -1).float()
    mrope = torch.cat([before, image, after], 1)
    positions = torch.cat([torch.arange(len(short))[None].float(), mrope])[:, None]
    with torch.no_grad():
        output = model.backbone(
            input_ids=short[None],
            attention_mask=torch.ones(1, len(short), dtype=torch.long),
            position_ids=positions,
            mm_encoder_outputs=features.as_encoder_output([tokens]),
        )
    return output.logits


def test_after_the_tower_coarse_tokens_are_mean_features_at_their_centres(
    model: ArrCocQwen3VL,
) -> None:
    batch = encode(model)
    with torch.no_grad():
        ours = model(**batch, selector=always(blocks(1)))
        visual = model.backbone.model.visual
        whole = visual(batch["pixel_values"], grid_thw=batch["image_grid_thw"], return_dict=True)

    def pool(features: Tensor) -> Tensor:
        grid = features.view(ROWS, COLUMNS, -1).permute(2, 0, 1)
        return F.avg_pool2d(grid, 2).flatten(1).T

    features = VisualTokens(pool(whole.pooler_output), [pool(f) for f in whole.deepstack_features])
    expected = by_hand(model, batch, features, (ROWS // 2, COLUMNS // 2))
    torch.testing.assert_close(ours.logits, expected, atol=1e-5, rtol=0)


def test_before_the_tower_coarse_tokens_are_patches_of_the_smaller_image(
    model: ArrCocQwen3VL,
) -> None:
    model.select = "before_vision"
    batch = encode(model)
    scale = model.pixel_scale
    image = fold_patches(batch["pixel_values"], (2 * ROWS, 2 * COLUMNS), 2, scale)
    small = unfold_patches(F.avg_pool2d(image, 2), 16, 2, scale)
    # Where the middle of each patch of the smaller image lies in the patch grid of the whole one.
    at = torch.cartesian_prod(
        torch.arange(ROWS // 2), torch.arange(COLUMNS // 2), torch.arange(2), torch.arange(2)
    ).float()
    coordinates = 2 * (2 * at[:, :2] + at[:, 2:]) + 0.5
    visual = model.backbone.model.visual
    grid = torch.tensor([[2 * ROWS, 2 * COLUMNS]]).expand(len(at), 2)
    taps, weights = position_taps(coordinates, grid, visual.num_grid_per_side)
    with torch.no_grad():
        ours = model(**batch, selector=always(blocks(1)))
        tower = visual(
            small, grid_thw=None, cu_seqlens=torch.tensor([0, len(at)], dtype=torch.int32),
            position_ids=coordinates, interp_indices=taps, interp_weights=weights,
            return_dict=True,
        )  # fmt: skip
    features = VisualTokens(tower.pooler_output, list(tower.deepstack_features))
    expected = by_hand(model, batch, features, (ROWS // 2, COLUMNS // 2))
    torch.testing.assert_close(ours.logits, expected, atol=1e-5, rtol=0)


def test_left_at_the_first_cell_a_token_would_be_somewhere_else(
    model: ArrCocQwen3VL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the two tests above."""
    batch = encode(model)
    with torch.no_grad():
        right = model(**batch, selector=always(blocks(1))).logits
        monkeypatch.setattr(
            "lightning_arrcoc.vlm.qwen3_vl.centred", lambda positions, *_: positions
        )
        wrong = model(**batch, selector=always(blocks(1))).logits
    assert (right - wrong).abs().max() > 1e-2


@pytest.mark.parametrize("select", SELECT)
def test_generation_goes_on_where_the_prompt_ended(model: ArrCocQwen3VL, select: Any) -> None:
    """Greedy tokens equal the best ones of a whole forward pass behind each prefix."""
    model.select = select
    selector = always(blocks(1))
    batch = encode(model, answers=())
    made = model.generate(
        **batch, selector=selector, max_new_tokens=5, do_sample=False, eos_token_id=None
    ).sequences
    for length in range(made.shape[1] - 5, made.shape[1]):
        prefix = batch | {
            "input_ids": made[:, :length],
            "attention_mask": torch.ones(1, length, dtype=torch.long),
        }
        prefix.pop("labels", None)
        prefix.pop("query_mask", None)
        with torch.no_grad():
            logits = model(**prefix, selector=selector).logits
        assert int(logits[0, -1].argmax()) == int(made[0, length])


@pytest.mark.parametrize("select", SELECT)
@pytest.mark.parametrize("level", [1, 2])
def test_grids_that_do_not_tile_and_straight_through_gates(
    model: ArrCocQwen3VL, select: Any, level: int
) -> None:
    """Forward is unchanged by the gate, and the gradient reaches every cell under a token."""
    model.select = select
    allocation = blocks(level)
    batch = encode(model)
    selector = always(allocation)
    maps: list[Tensor] = []
    found = selector.relevance_logit

    def watched(*args: Any) -> Tensor:
        maps.append(found(*args).requires_grad_(True))
        return maps[-1]

    selector.relevance_logit = watched
    plain = model(**batch, selector=selector)
    gated = model(**batch, selector=selector, straight_through=True)
    assert torch.equal(plain.logits, gated.logits)
    gated.loss.backward()
    assert maps[-1].grad is not None
    assert bool((maps[-1].grad != 0).all())
    assert len(plain.allocation[0].levels) == {1: 6, 2: 2}[level]


def test_lengths_count_the_prompt_that_was_given(model: ArrCocQwen3VL) -> None:
    batch = encode(model, answers=())
    prompt = batch["input_ids"].shape[1]
    options = {"selector": always(blocks(1)), "do_sample": False, "eos_token_id": None}
    made = model.generate(**batch, **options, max_length=prompt + 3, min_length=prompt + 2)
    assert made.sequences.shape[1] == prompt + 3
    with pytest.raises(ValueError, match=f"max_length={prompt}, but the prompt has {prompt}"):
        model.generate(**batch, **options, max_length=prompt)
