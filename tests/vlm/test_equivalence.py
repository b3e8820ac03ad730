"""ARR-COC changes nothing but which tokens there are: proven against the stock model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb_vision

from lightning_arrcoc.relevance.baselines import Baseline, RandomCells
from lightning_arrcoc.vlm import ArrCocQwen3VL

SELECT = ("before_vision", "after_vision")
SQUARE, WIDE, TALL = (96, 128), (64, 192), (160, 64)  # height, width
BATCHES = {
    "one image": [[SQUARE]],
    "images of one size": [[SQUARE], [SQUARE]],
    "mixed sizes": [[SQUARE], [TALL], [WIDE]],
    "several images a sample": [[SQUARE, WIDE], [TALL, TALL, SQUARE]],
    "text-only beside images": [[], [SQUARE, WIDE], []],
}


def picture(size: tuple[int, int], seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size[1], size[0]))


def encode(model: ArrCocQwen3VL, samples: list[list[tuple[int, int]]], side: str) -> dict[str, Any]:
    """A batch of prompts with an answer; rows differ in length by their images and words."""
    assert model.processor is not None
    conversations = [
        {
            "images": [picture(size, 10 * row + i) for i, size in enumerate(sizes)],
            "questions": ["Which digit is red?" + " there" * row],
            "answers": ["7"],
        }
        for row, sizes in enumerate(samples)
    ]
    return model.processor(conversations, padding_side=side)  # type: ignore[arg-type]


def stock_inputs(model: ArrCocQwen3VL, batch: dict[str, Any]) -> dict[str, Any]:
    image_token = model.backbone.config.image_token_id
    inputs = {key: value for key, value in batch.items() if key != "query_mask"}
    return inputs | {"mm_token_type_ids": (batch["input_ids"] == image_token).int()}


def load(folder: Path, select: str, attention: str = "sdpa", budget: float = 1.0) -> ArrCocQwen3VL:
    torch.manual_seed(0)
    model = ArrCocQwen3VL.from_pretrained(
        str(folder), select=select, budget=budget, attn_implementation=attention
    )
    return model.eval()


class Chosen(Baseline):
    """Relevance that the test dictates: cells of the first image, raster order."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def relevance_logit(
        self, count: int, rows: int, columns: int, images_I3hw: Tensor | None
    ) -> Tensor:
        return self.logits.view(1, rows, columns).expand(count, -1, -1)


# ------------------------------------------------------------------------ everything kept


@pytest.mark.parametrize("samples", BATCHES.values(), ids=BATCHES.keys())
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("select", SELECT)
def test_keeping_everything_equals_stock_bit_for_bit(
    backbone_folder: Path, select: str, attention: str, side: str, samples: Any
) -> None:
    model = load(backbone_folder, select, attention)
    batch = encode(model, samples, side)
    with torch.no_grad():
        stock = model.backbone(**stock_inputs(model, batch))
        ours = model(**batch)
    real = batch["attention_mask"].bool()
    assert torch.equal(ours.logits[real], stock.logits[real])
    assert torch.equal(ours.loss, stock.loss)
    assert len(ours.allocation) == sum(map(len, samples))


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("select", SELECT)
def test_generation_with_everything_kept_equals_stock(
    backbone_folder: Path, select: str, beams: int
) -> None:
    model = load(backbone_folder, select)
    batch = encode(model, BATCHES["several images a sample"], "left")
    options = {"max_new_tokens": 8, "num_beams": beams, "do_sample": False, "eos_token_id": None}
    inputs = stock_inputs(model, batch)
    inputs.pop("labels")
    stock = model.backbone.generate(**inputs, **options)
    for _ in range(2):  # a second call must not find the first one's leavings
        assert torch.equal(model.generate(**batch, **options).sequences, stock)


def test_a_batch_without_images_equals_stock(backbone_folder: Path) -> None:
    model = load(backbone_folder, "before_vision", budget=0.1)
    batch = encode(model, [[], []], "left")
    with torch.no_grad():
        stock = model.backbone(**{k: v for k, v in batch.items() if k != "query_mask"})
        ours = model(**batch)
    assert torch.equal(ours.logits, stock.logits)
    assert ours.allocation == []


# ------------------------------------------------------------------------- a part is kept


def visual_columns(model: ArrCocQwen3VL, batch: dict[str, Any]) -> Tensor:
    return (batch["input_ids"][0] == model.backbone.config.image_token_id).nonzero()[:, 0]


def masked_stock_logits(
    model: ArrCocQwen3VL, batch: dict[str, Any], kept: Tensor, **changes: Any
) -> Tensor:
    """Logits of the whole sequence, the dropped visual tokens closed as attention keys."""
    length = batch["input_ids"].shape[1]
    open_keys = torch.ones(length, dtype=torch.bool)
    open_keys[visual_columns(model, batch)] = kept
    allowed = torch.ones(length, length).tril().bool() & open_keys
    mask = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)[None, None]
    inputs = stock_inputs(model, batch) | changes
    positions, _ = model.backbone.model.get_rope_index(
        batch["input_ids"],
        mm_token_type_ids=inputs["mm_token_type_ids"],
        image_grid_thw=batch["image_grid_thw"],
        attention_mask=batch["attention_mask"],
    )
    inputs |= {"attention_mask": mask, "position_ids": positions}
    logits: Tensor = model.backbone(**inputs).logits[0]
    return logits[open_keys]


def half_of(cells: int) -> Tensor:
    return torch.rand(cells, generator=torch.Generator().manual_seed(3)) < 0.5


def keep(model: ArrCocQwen3VL, batch: dict[str, Any], kept: Tensor) -> Tensor:
    selector = Chosen(torch.where(kept, 1.0, -1.0))
    logits: Tensor = model(**batch, selector=selector, budget=int(kept.sum())).logits[0]
    return logits


@pytest.mark.parametrize("size", [SQUARE, WIDE, TALL])
@torch.no_grad()
def test_after_vision_equals_stock_with_the_dropped_keys_masked(
    backbone_folder: Path, size: tuple[int, int]
) -> None:
    model = load(backbone_folder, "after_vision")
    batch = encode(model, [[size]], "left")
    kept = half_of(len(visual_columns(model, batch)))
    error = (keep(model, batch, kept) - masked_stock_logits(model, batch, kept)).abs().max()
    print(f"after vision, {size}: {error:.1e}")
    assert error < 2e-5


def masked_vision(model: ArrCocQwen3VL, batch: dict[str, Any], kept: Tensor) -> Any:
    """The vision tower written out anew, all patches present, dropped ones closed as keys."""
    visual, grid = model.backbone.model.visual, batch["image_grid_thw"]
    stock = visual(batch["pixel_values"], grid_thw=grid, return_dict=True)
    rows, columns = int(grid[0, 1]), int(grid[0, 2])
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")

    def merge_blocks(values: Tensor) -> Tensor:
        return values.view(rows // 2, 2, columns // 2, 2).transpose(1, 2).flatten()

    at = torch.stack([merge_blocks(y), merge_blocks(x)], -1)
    side = visual.num_grid_per_side
    table = visual.pos_embed.weight.view(side, side, -1).permute(2, 0, 1)[None]
    learned = torch.nn.functional.interpolate(
        table, (rows, columns), mode="bilinear", align_corners=True
    )[0]
    hidden = visual.patch_embed(batch["pixel_values"]) + learned[:, at[:, 0], at[:, 1]].T
    cos, sin = visual.rotary_pos_emb(hidden, at)
    closed = torch.where(kept.repeat_interleave(4), 0.0, -torch.inf)
    deepstack = []
    for layer, block in enumerate(visual.blocks):
        attention = block.attn
        qkv = attention.qkv(block.norm1(hidden)).view(len(hidden), 3, attention.num_heads, -1)
        query, key, value = qkv.unbind(1)
        query, key = apply_rotary_pos_emb_vision(query, key, cos, sin)
        weights = torch.einsum("qhd,khd->hqk", query, key) * attention.scaling + closed
        mixed = torch.einsum("hqk,khd->qhd", weights.softmax(-1), value)
        hidden = hidden + attention.proj(mixed.flatten(1))
        hidden = hidden + block.mlp(block.norm2(hidden))
        if layer in visual.deepstack_visual_indexes:
            place = visual.deepstack_visual_indexes.index(layer)
            deepstack.append(visual.deepstack_merger_list[place](hidden))
    pooled = visual.merger(hidden)
    if bool(kept.all()):  # the reference itself is checked against the stock tower
        torch.testing.assert_close(pooled, stock.pooler_output, atol=2e-5, rtol=1e-4)
    return pooled, deepstack


@pytest.mark.parametrize("size", [SQUARE, WIDE, TALL])
@torch.no_grad()
def test_before_vision_equals_a_tower_with_the_dropped_patches_masked(
    backbone_folder: Path, size: tuple[int, int]
) -> None:
    model = load(backbone_folder, "before_vision")
    batch = encode(model, [[size]], "left")
    kept = half_of(len(visual_columns(model, batch)))
    masked_vision(model, batch, torch.ones_like(kept))
    pooled, deepstack = masked_vision(model, batch, kept)
    from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

    features = BaseModelOutputWithDeepstackFeatures(
        pooler_output=(pooled,), deepstack_features=[(level,) for level in deepstack]
    )
    changes = {"pixel_values": None, "mm_encoder_outputs": {"image": features}}
    expected = masked_stock_logits(model, batch, kept, **changes)
    error = (keep(model, batch, kept) - expected).abs().max()
    print(f"before vision, {size}: {error:.1e}")
    assert error < 5e-5


@pytest.mark.parametrize("select", SELECT)
@torch.no_grad()
def test_a_neighbour_in_the_batch_changes_nothing(backbone_folder: Path, select: str) -> None:
    model = load(backbone_folder, select, budget=0.4)
    together = encode(model, BATCHES["mixed sizes"], "left")
    both = model(**together)
    for row, samples in enumerate(BATCHES["mixed sizes"]):
        alone = encode(model, [[(64, 64)]] * row + [samples], "left")  # others beside it
        single = model(**alone)
        tail = slice(-5, None)
        torch.testing.assert_close(
            both.logits[row, tail], single.logits[row, tail], atol=1e-4, rtol=1e-4
        )
        assert torch.equal(both.allocation[row].positions, single.allocation[-1].positions)


# ----------------------------------------------------------------------- negative controls


@torch.no_grad()
def test_the_equivalences_fail_with_positions_closed_up(
    backbone_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(backbone_folder, "after_vision")
    batch = encode(model, [[SQUARE]], "left")
    kept = half_of(len(visual_columns(model, batch)))
    expected = masked_stock_logits(model, batch, kept)
    stock = type(model.backbone.model).get_rope_index

    def closed_up(self: Any, input_ids: Tensor, **kwargs: Any) -> Any:
        positions, delta = stock(self, input_ids, **kwargs)
        gap = positions.amax((0, 2))[:, None] - torch.arange(input_ids.shape[1]).flip(0)
        return gap.clamp(min=0).expand_as(positions), delta

    monkeypatch.setattr(type(model.backbone.model), "get_rope_index", closed_up)
    error = (keep(model, batch, kept) - expected).abs().max()
    print(f"naive positions: {error:.2f}")
    assert error > 0.05


@torch.no_grad()
def test_the_equivalences_fail_without_deepstack(
    backbone_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_arrcoc.vlm.vision import VisualTokens

    model = load(backbone_folder, "after_vision")
    batch = encode(model, [[SQUARE]], "left")
    kept = half_of(len(visual_columns(model, batch)))
    expected = masked_stock_logits(model, batch, kept)
    whole = VisualTokens.as_encoder_output

    def flat(self: VisualTokens, counts: list[int]) -> Any:
        silent = [torch.zeros_like(level) for level in self.deepstack]
        return whole(self._replace(deepstack=silent), counts)

    monkeypatch.setattr(VisualTokens, "as_encoder_output", flat)
    error = (keep(model, batch, kept) - expected).abs().max()
    print(f"no deepstack: {error:.2f}")
    assert error > 0.05


@torch.no_grad()
def test_dropping_tokens_does_change_the_answer(backbone_folder: Path) -> None:
    model = load(backbone_folder, "before_vision")
    batch = encode(model, [[SQUARE]], "left")
    everything = model(**batch).logits[0, -3:]
    few = model(**batch, budget=1, selector=RandomCells()).logits[0, -3:]
    assert (everything - few).abs().max() > 0.05


# -------------------------------------------------------------------------- the soft phase


@torch.no_grad()
def test_a_soft_choice_that_is_sure_equals_the_hard_one(backbone_folder: Path) -> None:
    model = load(backbone_folder, "after_vision")
    batch = encode(model, [[SQUARE]], "left")
    kept = half_of(len(visual_columns(model, batch)))
    soft = model(**batch, selector=Chosen(torch.where(kept, 40.0, -1e4)), soft_sharpness=1.0)
    text = slice(-5, None)
    error = (soft.logits[0, text] - keep(model, batch, kept)[text]).abs().max()
    assert error < 2e-5


@torch.no_grad()
def test_an_indifferent_soft_choice_still_biases_against_the_image(backbone_folder: Path) -> None:
    model = load(backbone_folder, "after_vision")
    batch = encode(model, [[SQUARE]], "left")
    cells = len(visual_columns(model, batch))
    stock = model(**batch).logits
    sure = model(**batch, selector=Chosen(torch.full((cells,), 60.0)), soft_sharpness=1.0).logits
    unsure = model(**batch, selector=Chosen(torch.zeros(cells)), soft_sharpness=1.0).logits
    torch.testing.assert_close(sure, stock, atol=2e-5, rtol=1e-4)
    assert (unsure - stock).abs().max() > 1e-3
