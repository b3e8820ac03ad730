"""What a device holds and what a step moves, by strategy and size of the backbone: arithmetic.

From true dimensions, on the meta device: no weight is made, none downloaded. Activations are left
out, since they depend on batch and images, and so is what the allocator keeps beside.

    python examples/benchmarks/devices.py --devices 1 8

Held: weights of the backbone in bf16 (sharded: those outside of its blocks, a device's part of the
blocks, and two whole blocks, the one that computes and the one that is fetched meanwhile); of what
trains weights, gradients and two moments in fp32. Moved a step, by each device: gradients by a
ring, 2 (n - 1) / n of their bytes; sharded also each block's other parts, (n - 1) / n of its bytes,
as often as it is fetched: by attribution forward, decoder layers once more backward, and the last
vision block then once in vain, ahead of a backward that does not come. tests/strategies compares
these with what a profiled step of two processes moved.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from random_2b import TEXT, VISION
from torch import nn
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from lightning_arrcoc import ArrCocQwen3VL
from lightning_arrcoc.relevance import build_realizer
from lightning_arrcoc.vlm.blocks import blocks_of
from lightning_arrcoc.vlm.lora import add_lora, lora_parameters

GB = 1e9
# 8B: pytorch/torchtitan, torchtitan/models/qwen3_vl/__init__.py, _8b, at 0310b49. 4B: its language
# model is Qwen3-4B's, its vision tower the 2B's; both agree with the sizes that the hub shows.
SIZES: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "2B": ({}, {}, True),
    "4B": (
        {
            "hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32,
            "intermediate_size": 9728,
        },
        {"out_hidden_size": 2560},
        True,
    ),
    "8B": (
        {
            "hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32,
            "intermediate_size": 12288,
        },
        {
            "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "out_hidden_size": 4096,
            "deepstack_visual_indexes": [8, 16, 24],
        },
        False,
    ),
}  # fmt: skip


class Sizes(NamedTuple):
    """Of a model, in numbers of parameters.

    Attributes:
        vision, decoder: of each block.
        outside: frozen ones of no block.
        trained: those that learn.
    """

    vision: list[int]
    decoder: list[int]
    outside: int
    trained: int

    @property
    def backbone(self) -> int:
        return sum(self.vision) + sum(self.decoder) + self.outside


def sizes_of(model: ArrCocQwen3VL) -> Sizes:
    """Count; what learns within a block is none of its own."""
    backbone = model.backbone
    adapters = sum(weight.numel() for weight in lora_parameters(backbone).values())
    of_block = [
        sum(weight.numel() for name, weight in block.named_parameters() if "lora_" not in name)
        for block in blocks_of(backbone)
    ]
    vision = len(backbone.model.visual.blocks)
    everything = sum(weight.numel() for weight in backbone.parameters()) - adapters
    return Sizes(
        of_block[:vision], of_block[vision:], everything - sum(of_block),
        sum(weight.numel() for weight in model.arr_coc.parameters()) + adapters,
    )  # fmt: skip


def held_bytes(sizes: Sizes, devices: int, sharded: bool) -> float:
    """What a device holds between forward and backward, activations aside."""
    blocks = [*sizes.vision, *sizes.decoder]
    training = 4 * 4 * sizes.trained
    if not sharded or devices == 1:
        return 2.0 * sizes.backbone + training
    here = sizes.outside + sum(blocks) / devices + 2 * max(blocks)
    return 2.0 * here + training


def moved_bytes(sizes: Sizes, devices: int, sharded: bool, bytes_each: int = 2) -> float:
    """What a device sends in a step by attribution; `bytes_each` of the backbone's weights."""
    others = (devices - 1) / devices
    gradients = 2 * others * 4 * sizes.trained
    fetched = sum(sizes.vision) + sizes.vision[-1] + 2 * sum(sizes.decoder)
    return gradients + (others * bytes_each * fetched if sharded else 0)


def model_of(size: str, lora: bool) -> ArrCocQwen3VL:
    """True dimensions without weights."""
    text, vision, tied = SIZES[size]
    config = Qwen3VLConfig(
        text_config=TEXT | text, vision_config=VISION | vision, tie_word_embeddings=tied
    )
    with torch.device("meta"):
        backbone = Qwen3VLForConditionalGeneration(config)
        backbone.tie_weights()
        realizer = build_realizer(config.text_config.hidden_size)
        if lora:
            add_lora(backbone)
    assert isinstance(realizer, nn.Module)
    return ArrCocQwen3VL(backbone, realizer)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--devices", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--lora", action="store_true", help="with adapters of rank 8")
    given = parser.parse_args(arguments)
    if min(given.devices) < 1:
        parser.error(f"--devices {min(given.devices)}; expected 1 or more.")
    print("| backbone | parameters | trained | strategy | devices | held, GB | moved a step, MB |")
    print("|---|---|---|---|---|---|---|")
    for size in given.sizes:
        sizes = sizes_of(model_of(size, given.lora))
        about = f"{size} | {sizes.backbone / GB:.2f} G | {sizes.trained / 1e6:.2f} M"
        for devices in given.devices:
            for strategy in ("ddp", "fsdp2") if devices > 1 else ("one",):
                sharded = strategy == "fsdp2"
                held = held_bytes(sizes, devices, sharded) / GB
                moved = moved_bytes(sizes, devices, sharded) / 1e6
                print(f"| {about} | {strategy} | {devices} | {held:.1f} | {moved:,.1f} |")


if __name__ == "__main__":
    main()
