"""The repeated blocks of a backbone, which hold most of its weights and activations."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.utils.checkpoint import checkpoint
from transformers import Qwen3VLForConditionalGeneration


def blocks_of(backbone: Qwen3VLForConditionalGeneration) -> list[nn.Module]:
    """Vision blocks and decoder layers, in the order in which they are called."""
    model = backbone.model
    return [*model.visual.blocks, *model.language_model.layers]


def is_sharded(backbone: Qwen3VLForConditionalGeneration) -> bool:
    """Whether its blocks lie in parts on several devices, which meet wherever one is called."""
    return isinstance(blocks_of(backbone)[-1], FSDPModule | FullyShardedDataParallel)


def checkpoint_activations(backbone: Qwen3VLForConditionalGeneration) -> None:
    """Have each block compute its activations again in the backward instead of keeping them.

    In place, for good, and without new names. transformers' own switch would do so in training mode
    alone, in which a frozen backbone never is.

    Source: T. Chen, B. Xu, C. Zhang, C. Guestrin, "Training Deep Nets with Sublinear Memory Cost",
    arXiv 1604.06174, 2016, section 4.
    """
    # A forward that is run twice would enter its keys into a cache twice; generation asks for its
    # own.
    backbone.config.text_config.use_cache = False
    for block in blocks_of(backbone):
        # Reentrant checkpointing gives the attention bias no gradient.
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
