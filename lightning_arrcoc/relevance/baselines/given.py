"""A choice by maps that were made elsewhere, and the map of one who knows the answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_arrcoc.relevance.baselines.baseline import Baseline

BESIDE = 1e-3  # cells beside the answer come after all that hold some of it, and before the rest


class Given(Baseline):
    """Relevance from outside. Set `maps` before each call, for images of one size.

    Attributes:
        maps: ``(I, H, W)``; any scale, only the order matters.
    """

    maps: Tensor | None = None

    def relevance_logit(
        self, count: int, rows: int, columns: int, images_I3hw: Tensor | None
    ) -> Tensor:
        expected = (count, rows, columns)
        if self.maps is None or self.maps.shape != expected:
            found = None if self.maps is None else tuple(self.maps.shape)
            raise ValueError(f"Given.maps has shape {found}; expected {expected}. Set it first.")
        return self.maps.float()


def oracle_map(
    boxes: Sequence[tuple[float, float, float, float]], rows: int, columns: int
) -> Tensor:
    """Cells that hold most of the answer first, then those beside them: ``(H, W)``.

    Args:
        boxes: where the answer can be read: left, top, right and bottom, in cells.
        rows, columns: of the grid.
    """
    truth = torch.zeros(rows, columns)
    for left, top, right, bottom in boxes:
        truth += _overlap(top, bottom, rows)[:, None] * _overlap(left, right, columns)
    beside = F.max_pool2d(truth[None], 3, stride=1, padding=1)[0]
    return truth + BESIDE * beside


def _overlap(low: float, high: float, cells: int) -> Tensor:
    """Share of a stretch that lies in each of so many cells."""
    edge = torch.arange(cells + 1).float()
    return (edge[1:].clamp(max=high) - edge[:-1].clamp(min=low)).clamp(min=0) / (high - low)
