"""A choice that knows where the answer can be read: how much there is to win."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_arrcoc.relevance.baselines.baseline import Baseline

BESIDE = 1e-3  # cells beside the answer come after all that hold some of it, and before the rest


class Oracle(Baseline):
    """Cells that hold most of the answer first, then those beside them.

    Set `truth` before each call.

    Attributes:
        truth: how much of what is asked for lies in each cell ``(I, H, W)``, 0 where nothing.
    """

    truth: Tensor | None = None

    def relevance_logit(
        self, count: int, rows: int, columns: int, images_I3hw: Tensor | None
    ) -> Tensor:
        expected = (count, rows, columns)
        if self.truth is None or self.truth.shape != expected:
            found = None if self.truth is None else tuple(self.truth.shape)
            raise ValueError(f"Oracle.truth has shape {found}; expected {expected}. Set it first.")
        beside = F.max_pool2d(self.truth[:, None], 3, stride=1, padding=1)[:, 0]
        return self.truth + BESIDE * beside


def truth_of_boxes(
    boxes: list[tuple[float, float, float, float]], rows: int, columns: int
) -> Tensor:
    """Share of each box's area that lies in each cell, added up: ``(H, W)``.

    Args:
        boxes: left, top, right and bottom, in cells.
        rows, columns: of the grid.
    """

    def overlap(low: float, high: float, cells: int) -> Tensor:
        edge = torch.arange(cells + 1).float()
        return (edge[1:].clamp(max=high) - edge[:-1].clamp(min=low)).clamp(min=0) / (high - low)

    truth = torch.zeros(rows, columns)
    for left, top, right, bottom in boxes:
        truth += overlap(top, bottom, rows)[:, None] * overlap(left, right, columns)
    return truth
