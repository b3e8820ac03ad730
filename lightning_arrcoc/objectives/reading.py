"""How much a step read, and how much it did not have to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from lightning_arrcoc.data.collate import Batch
from lightning_arrcoc.vlm import ArrCocOutput, ArrCocQwen3VL
from lightning_arrcoc.vlm.flops import training_flops


class Read(NamedTuple):
    """How much the backbone read in the pass that was learned from.

    Attributes:
        rows, length: of its sequences; padding counts, as it is computed.
        images: how many, one that several turns saw so many times.
        patches: that entered the vision tower.
        visual: tokens that all of these images have.
        kept: of these, what the language model read.
    """

    rows: int
    length: int
    images: int
    patches: int
    visual: int
    kept: int


def read_of(model: ArrCocQwen3VL, output: ArrCocOutput, *, chosen: bool) -> Read:
    """What a pass read, by shapes alone: nothing is waited for.

    Args:
        model: whose output it is.
        output: with an allocation for each image.
        chosen: whether the tokens it names were read, or all.
    """
    allocations = output.allocation or []
    visual = sum(allocation.relevance.numel() for allocation in allocations)
    kept = sum(len(allocation.levels) for allocation in allocations) if chosen else visual
    encoded = kept if model.select == "before_vision" else visual
    rows, length = output.logits.shape[:2]
    return Read(rows, length, len(allocations), encoded * patches_a_token(model), visual, kept)


def patches_a_token(model: ArrCocQwen3VL) -> int:
    """Patches that the vision tower merges into one token."""
    return int(model.backbone.config.vision_config.spatial_merge_size) ** 2


def read_whole(model: ArrCocQwen3VL, batch: Batch) -> Read:
    """What a pass read that left nothing out."""
    inputs = batch["inputs"]
    rows, length = inputs["input_ids"].shape
    patches = len(inputs["pixel_values"]) if "pixel_values" in inputs else 0
    visual = patches // patches_a_token(model)
    return Read(rows, length, sum(batch["images"]), patches, visual, visual)


def count(
    model: ArrCocQwen3VL, batch: Batch, reads: Sequence[Read], *, frozen: bool
) -> dict[str, int | Tensor]:
    """What `ThroughputMonitor` asks of a module.

    Visual tokens count for every question they were read for. Arithmetic is that of the pass that
    was learned from, with its images taken as equally large; a teacher's is not in it.

    Args:
        model: that read.
        batch: what there was to read.
        reads: one, or more where the batch came in parts.
        frozen: whether the backbone is.
    """
    flops = 0
    for read in reads:
        images = [read.patches // read.images] * read.images if read.images else []
        flops += training_flops(
            model.backbone.config, images, read.rows, read.length, frozen=frozen
        )
    kept = sum(read.kept for read in reads)
    text = batch["inputs"]["attention_mask"].sum() - read_whole(model, batch).visual
    return {
        "samples": len(batch["answers"]),
        "text_tokens": text,
        "visual_tokens": kept,
        "visual_tokens_saved": sum(read.visual for read in reads) - kept,
        "flops": flops,
    }
