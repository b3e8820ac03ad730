"""From a processed batch to the cells that each image keeps."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from lightning_arrcoc.relevance import Allocation, Selector
from lightning_arrcoc.vlm.sequence import find_question
from lightning_arrcoc.vlm.vision import PixelScale, cell_counts, fold_patches, packed_cells


class VisualBatch(NamedTuple):
    """A processor's batch that holds at least one image.

    Attributes:
        input_ids, attention_mask: ``(B, L)``.
        patches: ``pixel_values``, ``(patches, 1536)`` in merge-block order.
        grid_thw: frames, rows and columns of patches of each image ``(I, 3)``.
        query_mask: True at the question's tokens ``(B, L)``; None: find them.
        textures: ``(C, H, W)`` for each image; None: measure them.
    """

    input_ids: Tensor
    attention_mask: Tensor
    patches: Tensor
    grid_thw: Tensor
    query_mask: Tensor | None
    textures: list[Tensor] | None


class Selection(NamedTuple):
    """What a batch keeps.

    Attributes:
        allocations: one for each image.
        relevance_logits: the maps ``(H, W)`` they were chosen by, in log-odds.
        visual_BL: True at visual tokens of the whole sequence.
        keep_BL: True at text and at kept visual tokens.
    """

    allocations: list[Allocation]
    relevance_logits: list[Tensor]
    visual_BL: Tensor
    keep_BL: Tensor


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
        ValueError: images do not match the text, several frames, or a budget beyond the cells.
    """
    if bool((batch.grid_thw[:, 0] != 1).any()):
        raise ValueError("An image has several frames; video is not supported yet.")
    config = backbone.config
    merge = int(config.vision_config.spatial_merge_size)
    visual_BL = (batch.input_ids == config.image_token_id) & batch.attention_mask.bool()
    owners = image_owners(visual_BL, cell_counts(batch.grid_thw, merge))
    query_BLD, query_mask = _question(backbone, batch)
    logits: list[Tensor] = [torch.empty(0)] * len(owners)
    tensions: list[Tensor] = [torch.empty(0)] * len(owners)
    for group in _same_size(batch.grid_thw):
        rows = [owners[i] for i in group]
        images, textures = _pixels_or_textures(batch, group, merge, scale)
        found = selector(images, query_BLD[rows], query_mask[rows], textures)
        for place, i in enumerate(group):
            logits[i], tensions[i] = found.relevance_logit[place], found.tensions[place]
    allocations: list[Allocation] = []
    for row in sorted(set(owners)):
        mine = [i for i, owner in enumerate(owners) if owner == row]
        allocations += selector.allocator(
            [logits[i] for i in mine], [tensions[i] for i in mine], budget
        )
    kept = torch.zeros(int(visual_BL.sum()), dtype=torch.bool, device=visual_BL.device)
    kept[packed_cells(batch.grid_thw, merge, allocations)] = True
    keep_BL = batch.attention_mask.bool().masked_scatter(visual_BL, kept)
    return Selection(allocations, logits, visual_BL, keep_BL)


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


def _question(
    backbone: Qwen3VLForConditionalGeneration, batch: VisualBatch
) -> tuple[Tensor, Tensor]:
    """Embeddings of the question's tokens, closed up: ``(B, Q, D)``, and their mask."""
    config = backbone.config
    mask_BL = batch.query_mask
    if mask_BL is None:
        mask_BL = find_question(
            batch.input_ids, batch.attention_mask, config.image_token_id, end_tokens(backbone)
        )
    length = max(1, int(mask_BL.sum(1).max()))
    columns = (~mask_BL).byte().argsort(dim=1, stable=True)[:, :length]
    embed = backbone.get_input_embeddings()
    return embed(batch.input_ids.gather(1, columns)).detach(), mask_BL.gather(1, columns)


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
