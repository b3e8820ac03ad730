"""What one would do without ARR-COC: make the image smaller until its tokens fit the budget."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_arrcoc.relevance.allocation import token_count
from lightning_arrcoc.vlm.covering import cell_counts
from lightning_arrcoc.vlm.patches import fold_patches, unfold_patches
from lightning_arrcoc.vlm.qwen3_vl import ArrCocQwen3VL
from lightning_arrcoc.vlm.selection import image_owners

# Chosen by us: a grid may stretch the image by at most this factor to use more of its budget.
MOST_STRETCH = 1.5
OF_THE_WHOLE = ("textures", "previous")  # what a batch may hold of images in their own size


def downsample(
    prompts: dict[str, Tensor], budget: int | float, model: ArrCocQwen3VL
) -> dict[str, Tensor]:
    """Shrink every image of a processed batch to at most a budget of visual tokens.

    Args:
        prompts: as the processor returns them, padded on the left, one image a sample.
        budget: tokens an image, or a share of its tokens.
        model: says how images are cut into patches.

    Returns:
        The batch as the processor would have made it of smaller images.

    Raises:
        ValueError: a sample holds several images.
    """
    ids, grids = prompts["input_ids"], prompts["image_grid_thw"]
    config = model.backbone.config
    merge, patch = config.vision_config.spatial_merge_size, config.vision_config.patch_size
    visual_BL = (ids == config.image_token_id) & prompts["attention_mask"].bool()
    counts = cell_counts(grids, merge)
    owners = image_owners(visual_BL, counts)
    if len(set(owners)) != len(owners):
        raise ValueError("A sample holds several images; downsampling is measured on single ones.")
    keep_BL = prompts["attention_mask"].bool()
    patches, small_grids = [], []
    packed = torch.split(prompts["pixel_values"], grids.prod(-1).tolist())
    for i, owner in enumerate(owners):
        rows, columns = int(grids[i, 1]), int(grids[i, 2])
        cells = smaller_grid(rows // merge, columns // merge, token_count(budget, counts[i]))
        image = fold_patches(packed[i], (rows, columns), merge, model.pixel_scale)
        size = (cells[0] * merge * patch, cells[1] * merge * patch)
        if size != tuple(image.shape[-2:]):
            image = F.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)
        patches.append(unfold_patches(image, patch, merge, model.pixel_scale))
        small_grids.append([1, cells[0] * merge, cells[1] * merge])
        surplus = visual_BL[owner].nonzero()[cells[0] * cells[1] :, 0]
        keep_BL = keep_BL.index_put(
            (torch.tensor(owner, device=ids.device), surplus), keep_BL.new_zeros(())
        )
    order = keep_BL.byte().argsort(dim=1, stable=True)[:, -int(keep_BL.sum(1).max()) :]
    small = {
        key: value.gather(1, order) if value.shape == ids.shape else value
        for key, value in prompts.items()
        if key not in OF_THE_WHOLE
    }
    real = keep_BL.gather(1, order)
    padding = small["input_ids"].new_tensor(config.text_config.pad_token_id or 0)
    small["input_ids"] = torch.where(real, small["input_ids"], padding)
    small["attention_mask"] = real.long()
    small["query_mask"] = small["query_mask"] & real
    small["pixel_values"] = torch.cat(patches)
    small["image_grid_thw"] = grids.new_tensor(small_grids)
    return small


def smaller_grid(rows: int, columns: int, tokens: int) -> tuple[int, int]:
    """The grid of at most `tokens` cells that shows most of an image of `rows` x `columns`.

    Of the grids that stretch the image least (by at most `MOST_STRETCH`, where one can) the one
    with the most cells; never finer than the image itself.
    """
    if rows * columns <= tokens:
        return rows, columns
    grids = [(r, min(columns, tokens // r)) for r in range(1, min(rows, tokens) + 1)]

    def stretch(grid: tuple[int, int]) -> float:
        return math.exp(abs(math.log(grid[0] / grid[1] * columns / rows)))

    least = min(stretch(grid) for grid in grids)
    fair = [grid for grid in grids if stretch(grid) <= max(MOST_STRETCH, least)]
    return max(fair, key=lambda grid: (grid[0] * grid[1], -stretch(grid)))
