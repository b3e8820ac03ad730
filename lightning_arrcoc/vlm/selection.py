"""From a processed batch to the cells that each image keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from lightning_arrcoc.relevance import (
    Allocation,
    ImageRelevance,
    Previous,
    RelevanceRealizer,
    Selector,
)
from lightning_arrcoc.vlm.covering import cell_counts, first_cells
from lightning_arrcoc.vlm.packing import SHARED
from lightning_arrcoc.vlm.patches import PixelScale, fold_patches
from lightning_arrcoc.vlm.previous import check_previous, previous_of
from lightning_arrcoc.vlm.sequence import find_question


class VisualBatch(NamedTuple):
    """A processor's batch that holds at least one image.

    Attributes:
        input_ids, attention_mask: ``(B, L)``.
        patches: ``pixel_values``, ``(patches, 1536)`` in merge-block order.
        grid_thw: frames, rows and columns of patches of each image ``(I, 3)``.
        query_mask: True at the question's tokens ``(B, L)``; None: find them.
        textures: ``(C, H, W)`` for each image; None: measure them.
        previous: what was seen of each image in the frame or turn before, None for a new one.
    """

    input_ids: Tensor
    attention_mask: Tensor
    patches: Tensor
    grid_thw: Tensor
    query_mask: Tensor | None
    textures: list[Tensor] | None
    previous: Sequence[Previous | None] | None = None


class Selection(NamedTuple):
    """What a batch keeps.

    Attributes:
        allocations: one for each image.
        relevance_logits: the maps ``(H, W)`` they were chosen by, in log-odds.
        visual_BL: True at visual tokens of the whole sequence.
        keep_BL: True at text and at kept visual tokens.
        seen: what the next frame or turn is told of each image, where anything is remembered.
    """

    allocations: list[Allocation]
    relevance_logits: list[Tensor]
    visual_BL: Tensor
    keep_BL: Tensor
    seen: list[Previous | None]


class Asked(NamedTuple):
    """What one turn finds relevant in the images of its row.

    Attributes:
        row, turn: both counted from 0.
        found: what is relevant in each image, for the allocator.
    """

    row: int
    turn: int
    found: list[ImageRelevance]


def select_tokens(
    backbone: Qwen3VLForConditionalGeneration,
    selector: Selector,
    batch: VisualBatch,
    scale: PixelScale,
    budget: int | float | None,
) -> Selection:
    """Ask the selector about every image and spend each sample's budget.

    Args:
        backbone: its token embeddings stand for the question.
        selector: finds relevance and allocates.
        batch: what to look at.
        scale: how pixels were normalised.
        budget: replaces the allocator's own.

    Raises:
        TypeError: `previous` holds something else.
        ValueError: images do not match the text, several frames, a budget beyond the cells, or
            `previous` is not what belongs to these images.
    """
    check_previous(batch.previous, len(batch.grid_thw), batch.textures)
    if bool((batch.grid_thw[:, 0] != 1).any()):
        raise ValueError("An image has several frames; video is not supported yet.")
    config = backbone.config
    merge = int(config.vision_config.spatial_merge_size)
    visual_BL = (batch.input_ids == config.image_token_id) & batch.attention_mask.bool()
    owners = image_owners(visual_BL, cell_counts(batch.grid_thw, merge))
    mask_BL = batch.query_mask
    if mask_BL is None:
        mask_BL = find_question(
            batch.input_ids, batch.attention_mask, config.image_token_id, end_tokens(backbone)
        )
    query_BLD, mask_BL = _closed_up(backbone, batch.input_ids, mask_BL)
    found, seen = _ask(
        selector, batch, list(range(len(owners))), query_BLD[owners], mask_BL[owners], merge, scale
    )
    allocations: list[Allocation] = []
    for row in sorted(set(owners)):
        mine = [found[i] for i, owner in enumerate(owners) if owner == row]
        allocations += selector.allocator(mine, budget)
    kept = torch.zeros(int(visual_BL.sum()), dtype=torch.bool, device=visual_BL.device)
    kept[first_cells(batch.grid_thw, merge, allocations)] = True
    keep_BL = batch.attention_mask.bool().masked_scatter(visual_BL, kept)
    maps = [image.logits for image in found]
    return Selection(allocations, maps, visual_BL, keep_BL, seen)


def ask_turns(
    backbone: Qwen3VLForConditionalGeneration,
    realizer: RelevanceRealizer,
    batch: VisualBatch,
    turns_BL: Tensor,
    scale: PixelScale,
) -> list[Asked]:
    """Ask about the images of each row once for each turn; every image is measured once.

    Args:
        backbone: its token embeddings stand for the questions.
        realizer: finds relevance.
        batch: packed turns with their `query_mask`.
        turns_BL: to which turn a token belongs, as for `forward_packed`.
        scale: how pixels were normalised.

    Returns:
        In the order of rows and turns. Rows without images are not asked.

    Raises:
        TypeError, ValueError: the questions are not marked, or as for `select_tokens`.
    """
    check_previous(batch.previous, len(batch.grid_thw), batch.textures)
    if batch.query_mask is None:
        raise ValueError("Packed turns came without query_mask, so what they ask is unknown.")
    merge = int(backbone.config.vision_config.spatial_merge_size)
    visual_BL = (batch.input_ids == backbone.config.image_token_id) & (turns_BL == SHARED)
    owners = image_owners(visual_BL, cell_counts(batch.grid_thw, merge))
    asked = [
        Asked(row, turn, [])
        for row in sorted(set(owners))
        for turn in range(int(turns_BL[row].max()))
    ]
    if not asked:
        return []
    rows = [question.row for question in asked]
    numbers = torch.tensor([question.turn + 1 for question in asked], device=turns_BL.device)
    mask_QL = batch.query_mask[rows] & (turns_BL[rows] == numbers[:, None])
    query_QLD, mask_QL = _closed_up(backbone, batch.input_ids[rows], mask_QL)
    pairs = [(q, i) for q, row in enumerate(rows) for i, owner in enumerate(owners) if owner == row]
    questions, images = [q for q, _ in pairs], [i for _, i in pairs]
    textures = batch.textures or _measured(realizer, batch, merge, scale)
    batch = batch._replace(textures=textures, previous=None)
    found, _ = _ask(realizer, batch, images, query_QLD[questions], mask_QL[questions], merge, scale)
    for question, image in zip(questions, found, strict=True):
        asked[question].found.append(image)
    return asked


def _ask(
    selector: Selector,
    batch: VisualBatch,
    images: Sequence[int],
    query_PLD: Tensor,
    mask_PL: Tensor,
    merge: int,
    scale: PixelScale,
) -> tuple[list[ImageRelevance], list[Previous | None]]:
    """What is relevant for pairs of an image and a question, and what is remembered of it.

    Images of the same size are looked at together.
    """
    relevance: dict[int, ImageRelevance] = {}
    seen: dict[int, Previous | None] = {}
    for pairs in _same_size(batch.grid_thw[list(images)]):
        group = [images[p] for p in pairs]
        pixels, textures = _pixels_or_textures(batch, group, merge, scale)
        known = previous_of(batch.previous, group, pixels)
        found = selector(pixels, query_PLD[pairs], mask_PL[pairs], textures, known)
        for place, p in enumerate(pairs):
            relevance[p] = found.image(place)
            seen[p] = None if found.seen is None else found.seen.image(place)
    order = range(len(images))
    return [relevance[p] for p in order], [seen[p] for p in order]


def _measured(
    realizer: RelevanceRealizer, batch: VisualBatch, merge: int, scale: PixelScale
) -> list[Tensor]:
    """Textures of every image."""
    textures: list[Tensor] = [torch.empty(0)] * len(batch.grid_thw)
    for group in _same_size(batch.grid_thw):
        pixels, _ = _pixels_or_textures(batch, group, merge, scale)
        assert pixels is not None
        measured = realizer.measure(pixels, previous_of(batch.previous, group, pixels))
        for i, texture in zip(group, measured, strict=True):
            textures[i] = texture
    return textures


def image_owners(visual_BL: Tensor, counts: list[int]) -> list[int]:
    """The row that each image belongs to, from how many visual tokens each row holds.

    Raises:
        ValueError: a row's tokens are not those of a whole number of images.
    """
    owners: list[int] = []
    for row, tokens in enumerate(visual_BL.sum(1).tolist()):
        while tokens > 0 and len(owners) < len(counts):
            tokens -= counts[len(owners)]
            owners.append(row)
        if tokens:
            break
    else:
        if len(owners) == len(counts):
            return owners
    raise ValueError(
        f"input_ids hold {visual_BL.sum(1).tolist()} image tokens a row, but the images have "
        f"{counts} cells. Encode text and images with one processor call."
    )


def _closed_up(
    backbone: Qwen3VLForConditionalGeneration, input_ids_QL: Tensor, mask_QL: Tensor
) -> tuple[Tensor, Tensor]:
    """Embeddings of the marked tokens without the gaps between them, and which are real."""
    length = max(1, int(mask_QL.sum(1).max()))
    columns = (~mask_QL).byte().argsort(dim=1, stable=True)[:, :length]
    embed = backbone.get_input_embeddings()
    return embed(input_ids_QL.gather(1, columns)).detach(), mask_QL.gather(1, columns)


def end_tokens(backbone: Qwen3VLForConditionalGeneration) -> list[int]:
    """Tokens that end a turn, from wherever a backbone names them."""
    ends = _as_list(backbone.generation_config.eos_token_id)
    return ends + _as_list(backbone.config.text_config.eos_token_id)


def _as_list(tokens: int | list[int] | None) -> list[int]:
    if tokens is None:
        return []
    return [tokens] if isinstance(tokens, int) else list(tokens)


def _same_size(grid_thw_I3: Tensor) -> list[list[int]]:
    """Images grouped by size; within a group they are measured together."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, grid in enumerate(grid_thw_I3.tolist()):
        groups.setdefault(tuple(grid), []).append(i)
    return list(groups.values())


def _pixels_or_textures(
    batch: VisualBatch, group: list[int], merge: int, scale: PixelScale
) -> tuple[Tensor | None, Tensor | None]:
    if batch.textures is not None:
        return None, torch.stack([batch.textures[i] for i in group])
    patches = torch.split(batch.patches, batch.grid_thw.prod(-1).tolist())
    _, rows, columns = batch.grid_thw[group[0]].tolist()
    packed = torch.cat([patches[i] for i in group])
    return fold_patches(packed, (rows, columns), merge, scale), None
