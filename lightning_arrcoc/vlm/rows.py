"""Rows of a processed batch: some of them, or each packed turn as a row of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from lightning_arrcoc.vlm.chat import IGNORED_LABEL
from lightning_arrcoc.vlm.covering import cell_counts
from lightning_arrcoc.vlm.packing import SHARED
from lightning_arrcoc.vlm.selection import image_owners

BY_IMAGE = ("pixel_values", "image_grid_thw", "textures", "previous")


def take_rows(
    backbone: Qwen3VLForConditionalGeneration, inputs: Mapping[str, Any], rows: Sequence[int]
) -> dict[str, Any]:
    """Some rows with their images, in the order given; a row may be taken several times.

    Args:
        backbone: says which token stands for an image and how many patches it covers.
        inputs: a batch as `ChatProcessor` makes it, packed or not.
        rows: which; counted from 0.

    Raises:
        ValueError: images do not match the text.
    """
    index = torch.as_tensor(rows, device=inputs["input_ids"].device)
    taken = {key: value[index] for key, value in inputs.items() if key not in BY_IMAGE}
    images = images_of_rows(backbone, inputs)
    chosen = [image for row in rows for image in images[row]]
    for key in ("textures", "previous"):
        if inputs.get(key) is not None:
            taken[key] = [inputs[key][image] for image in chosen]
    if chosen:
        grids = inputs["image_grid_thw"]
        patches = torch.split(inputs["pixel_values"], grids.prod(-1).tolist())
        taken["pixel_values"] = torch.cat([patches[image] for image in chosen])
        taken["image_grid_thw"] = grids[chosen]
    return taken


def images_of_rows(
    backbone: Qwen3VLForConditionalGeneration, inputs: Mapping[str, Any]
) -> list[list[int]]:
    """For each row the indices of its images.

    Raises:
        ValueError: images do not match the text.
    """
    images: list[list[int]] = [[] for _ in inputs["input_ids"]]
    if inputs.get("pixel_values") is None:
        return images
    config = backbone.config
    visual_BL = (inputs["input_ids"] == config.image_token_id) & inputs["attention_mask"].bool()
    counts = cell_counts(inputs["image_grid_thw"], int(config.vision_config.spatial_merge_size))
    for image, row in enumerate(image_owners(visual_BL, counts)):
        images[row].append(image)
    return images


def a_row_a_turn(
    backbone: Qwen3VLForConditionalGeneration, inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """Packed turns as rows of their own, padded on the left; other batches as they are.

    A turn's images are repeated for it, so that each may choose tokens of its own.

    Args:
        backbone: as for `take_rows`.
        inputs: a batch as `ChatProcessor` makes it, packed or not.

    Returns:
        What `ChatProcessor` makes of each turn alone, in the order of rows and turns.
    """
    if "turns" not in inputs:
        return dict(inputs)
    last_turns = inputs["turns"].amax(1).tolist()
    pairs = [(row, turn) for row, last in enumerate(last_turns) for turn in range(1, last + 1)]
    taken = take_rows(backbone, inputs, [row for row, _ in pairs])
    turns_RL: Tensor = taken.pop("turns")
    own = turns_RL.new_tensor([turn for _, turn in pairs])[:, None]
    keep_RL = (turns_RL == SHARED) | (turns_RL == own)
    columns = keep_RL.byte().argsort(dim=1, stable=True)[:, -int(keep_RL.sum(1).max()) :]
    padding = ~keep_RL.gather(1, columns)
    fill = {
        "input_ids": backbone.config.text_config.pad_token_id or 0,
        "labels": IGNORED_LABEL,
        "attention_mask": 0,
        "query_mask": False,
    }
    for key, value in fill.items():
        if key in taken:
            taken[key] = taken[key].gather(1, columns).masked_fill(padding, value)
    return taken
