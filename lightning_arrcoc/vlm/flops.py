"""How much arithmetic a Qwen3-VL has to do: the matrix products, counted from its configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from transformers.models.qwen3_vl.configuration_qwen3_vl import (
    Qwen3VLConfig,
    Qwen3VLTextConfig,
    Qwen3VLVisionConfig,
)

PER_PRODUCT = 2  # a multiplication and an addition


class Flops(NamedTuple):
    """Floating-point operations of a forward pass.

    Norms, activations, rotations and softmax are left out: they are bound by memory, not by
    arithmetic.

    Attributes:
        weights: of products with weights.
        attention: of products of activations with one another; causal ones count in full, as
            eager attention does them, where a kernel that skips the future does half.
    """

    weights: int
    attention: int

    @property
    def forward(self) -> int:
        return self.weights + self.attention

    @property
    def backward_of_trained(self) -> int:
        """Of a backward pass through matrices that are trained: each has a gradient, too."""
        return 2 * self.forward

    @property
    def backward(self) -> int:
        """Of a backward pass through frozen matrices: each hands on one gradient, and has none."""
        return self.weights + 2 * self.attention


def vision_flops(config: Qwen3VLVisionConfig, patches: int) -> Flops:
    """Of the vision tower, for one image.

    Args:
        config: of the tower.
        patches: of the image, as many as enter the tower.
    """
    width, merged = config.hidden_size, config.hidden_size * config.spatial_merge_size**2
    pixels = config.in_channels * config.temporal_patch_size * config.patch_size**2
    block = 4 * width**2 + 2 * width * config.intermediate_size
    mergers = 1 + len(config.deepstack_visual_indexes)
    merger = merged * (merged + config.out_hidden_size)
    cells = patches // config.spatial_merge_size**2
    products = patches * (pixels * width + config.depth * block) + cells * mergers * merger
    attention = config.depth * 2 * patches**2 * width
    return Flops(PER_PRODUCT * products, PER_PRODUCT * attention)


def language_flops(config: Qwen3VLTextConfig, tokens: int, logits: int) -> Flops:
    """Of the language model, for one sequence.

    Args:
        config: of the language model.
        tokens: of the sequence, visual ones included.
        logits: positions whose next token is predicted; `generate` wants one, training all.
    """
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    layer = config.hidden_size * (2 * queries + 2 * keys + 3 * config.intermediate_size)
    head = config.hidden_size * config.vocab_size
    products = tokens * config.num_hidden_layers * layer + logits * head
    attention = config.num_hidden_layers * 2 * tokens**2 * queries
    return Flops(PER_PRODUCT * products, PER_PRODUCT * attention)


def training_flops(
    config: Qwen3VLConfig, images: Sequence[int], rows: int, length: int, *, frozen: bool
) -> int:
    """Of a training step, ARR-COC's own not counted.

    Args:
        config: of the backbone.
        images: patches of each.
        rows, length: of the sequences in the language model.
        frozen: whether the backbone is, so that a gradient passes through the language model on its
            way to something else; if not, both parts are trained.
    """
    towers = [vision_flops(config.vision_config, patches) for patches in images]
    language = language_flops(config.text_config, length, length)
    forward = sum(tower.forward for tower in towers) + rows * language.forward
    if frozen:
        return forward + rows * language.backward
    backward = sum(tower.backward_of_trained for tower in towers)
    return forward + backward + rows * language.backward_of_trained
