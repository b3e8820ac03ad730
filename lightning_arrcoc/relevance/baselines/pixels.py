"""Baselines that look at the pixels, but not at the question."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_arrcoc.relevance.baselines.baseline import Baseline
from lightning_arrcoc.relevance.baselines.blind import farthest_first
from lightning_arrcoc.relevance.textures import CELL_PX, TextureGenerator

REDUCED_PX = 4  # cells are compared on areas of so many pixels


class PixelBaseline(Baseline):
    """A baseline that cannot do without the images."""

    def relevance_logit(
        self, count: int, rows: int, columns: int, images_I3hw: Tensor | None
    ) -> Tensor:
        if images_I3hw is None:
            raise ValueError(f"{type(self).__name__} needs pixels, but only textures were given.")
        return self.relevance_of(images_I3hw.float())

    @abstractmethod
    def relevance_of(self, images_I3hw: Tensor) -> Tensor:
        """``(I, H, W)``; any scale, only the order matters."""


class EdgeSaliency(PixelBaseline):
    """Cells with the strongest luma edges first."""

    def __init__(self) -> None:
        super().__init__()
        self.texture = TextureGenerator()

    def relevance_of(self, images_I3hw: Tensor) -> Tensor:
        textures: Tensor = self.texture(images_I3hw)
        return textures[:, self.texture.index("edge_mean")]


class PixelPruneLike(PixelBaseline):
    """Cells that their neighbours predict worst first.

    A cell is predicted as a copy of the cell to its left, above it, or left above it, whichever
    fits best; its error is the largest difference of any channel of any pixel. The first cell has
    nothing to be predicted from and always comes first.

    Source: N. Wang, Z. Jin, C. Chen, H. Lu, "PixelPrune: pixel-level adaptive visual token
    reduction via predictive coding", 2026, arXiv 2604.00886 (causal prediction in pixel space).
    Departures: ranked by the error to meet a budget, where the paper cuts at a threshold.
    """

    def relevance_of(self, images_I3hw: Tensor) -> Tensor:
        cells = cells_of(images_I3hw, 1)
        best = torch.full(cells.shape[:3], torch.inf, device=cells.device)
        for down, right in ((0, 1), (1, 0), (1, 1)):
            rows, columns = cells.shape[1] - down, cells.shape[2] - right
            error = (cells[:, down:, right:] - cells[:, :rows, :columns]).abs().amax(-1)
            best[:, down:, right:] = torch.minimum(best[:, down:, right:], error)
        return best.nan_to_num(posinf=2.0)  # pixels differ by 1 at most


class DivPruneLike(PixelBaseline):
    """Cells as different from each other as possible: each next one farthest from those before.

    Source: S. R. Alvar, G. Singh, M. Akbari, Y. Zhang, "DivPrune: diversity-based visual token
    pruning for large multimodal models", CVPR 2025 (max-min diversity, solved greedily).
    Departures: Euclidean distance of areas of 4 x 4 pixels instead of cosine distance of encoded
    tokens, because the choice is made before the vision tower; begun with the cell that is
    farthest from the mean one.
    """

    def relevance_of(self, images_I3hw: Tensor) -> Tensor:
        cells = cells_of(images_I3hw, REDUCED_PX)
        turns = []
        for cells_ND in cells.flatten(1, 2):
            first = int((cells_ND - cells_ND.mean(0)).norm(dim=1).argmax())
            turns.append(farthest_first(cells_ND, first).view(cells.shape[1:3]))
        return -torch.stack(turns)


def cells_of(images_I3hw: Tensor, reduced: int) -> Tensor:
    """Each cell as one vector of its pixels, areas averaged: ``(I, H, W, D)``."""
    small = F.avg_pool2d(images_I3hw, reduced) if reduced > 1 else images_I3hw
    side = CELL_PX // reduced
    cells = small.unfold(2, side, side).unfold(3, side, side)  # (I, 3, H, W, side, side)
    return cells.permute(0, 2, 3, 1, 4, 5).flatten(3)
