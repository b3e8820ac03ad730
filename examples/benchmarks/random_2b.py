"""Qwen3-VL-2B with random weights, and a question for it: what `speed.py` times."""

from __future__ import annotations

import torch
from textures import drawn
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.initialization import no_init_weights

from lightning_arrcoc import ArrCocQwen3VL
from lightning_arrcoc.relevance import CELL_PX, build_realizer
from lightning_arrcoc.vlm.loading import locate
from lightning_arrcoc.vlm.patches import unfold_patches

# Qwen/Qwen3-VL-2B-Instruct, as in pytorch/torchtitan, torchtitan/models/qwen3_vl/__init__.py, _2b,
# at 0310b49; what is not named there (special tokens among it) is transformers' default.
TEXT = {
    "hidden_size": 2048,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 6144,
    "vocab_size": 151936,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 5_000_000.0,
        "mrope_section": [24, 20, 20],
        "mrope_interleaved": True,
    },
}
VISION = {
    "depth": 24,
    "hidden_size": 1024,
    "num_heads": 16,
    "intermediate_size": 4096,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 2048,
    "num_position_embeddings": 2304,
    "deepstack_visual_indexes": [5, 11, 17],
}
QUARTER_TEXT = {"num_hidden_layers": 7}
QUARTER_VISION = {"depth": 6, "deepstack_visual_indexes": [1, 2, 4]}
BEFORE_IMAGE, QUESTION, ANSWER, TEXT_TOKENS = 4, 24, 8, 40


def configuration(name: str | None, quarter: bool) -> Qwen3VLConfig:
    """The built-in 2B, with a quarter of its layers if asked; or another's own."""
    if name is not None:
        return AutoConfig.from_pretrained(locate(name), trust_remote_code=False)
    text, vision = (TEXT | QUARTER_TEXT, VISION | QUARTER_VISION) if quarter else (TEXT, VISION)
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True)


def build(config: Qwen3VLConfig, device: torch.device, dtype: torch.dtype) -> ArrCocQwen3VL:
    """Random weights in seconds: one block of them, repeated; to draw two billion takes minutes."""
    with device, no_init_weights():
        backbone: Qwen3VLForConditionalGeneration = AutoModelForImageTextToText.from_config(
            config, dtype=dtype, attn_implementation="sdpa"
        )
    backbone.tie_weights()
    torch.manual_seed(0)
    block = 0.02 * torch.randn(2**20, device=device)
    with torch.no_grad():
        for name, weight in backbone.named_parameters():
            if weight.ndim == 1:
                weight.fill_(1.0 if name.endswith("weight") else 0.0)
            else:
                for part in weight.view(-1).split(len(block)):
                    part.copy_(block[: len(part)])
    realizer = build_realizer(config.text_config.hidden_size).to(device)
    return ArrCocQwen3VL(backbone, realizer).eval()


def example(model: ArrCocQwen3VL, size: int, samples: int) -> dict[str, Tensor]:
    """A processor's batch: samples alike, a drawn picture, a question of 24 tokens, 8 of answer."""
    config = model.backbone.config
    vision = config.vision_config
    side, merge = vision.patch_size, vision.spatial_merge_size
    device = model.backbone.device
    random = torch.Generator().manual_seed(0)
    cells = (size // CELL_PX) ** 2
    columns = TEXT_TOKENS + cells
    # Words come from the first tokens of the vocabulary; special ones stand at its end.
    ids = torch.randint(min(100, config.vision_start_token_id), (1, columns), generator=random)
    ids[0, BEFORE_IMAGE - 1] = config.vision_start_token_id
    ids[0, BEFORE_IMAGE : BEFORE_IMAGE + cells] = config.image_token_id
    ids[0, BEFORE_IMAGE + cells] = config.vision_end_token_id
    query = torch.zeros(1, columns, dtype=torch.bool)
    query[0, BEFORE_IMAGE + cells + 1 :][:QUESTION] = True
    labels = ids.clone()
    labels[0, :-ANSWER] = -100
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "image_grid_thw": torch.tensor([[1, size // side, size // side]]),
        "query_mask": query,
        "labels": labels,
    }
    batch = {key: value.to(device) for key, value in batch.items()}
    batch["pixel_values"] = unfold_patches(drawn(size).to(device), side, merge, model.pixel_scale)
    return {key: rows.repeat(samples, 1) for key, rows in batch.items()}
