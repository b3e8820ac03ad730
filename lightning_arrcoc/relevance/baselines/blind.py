"""Baselines that do not look at the image."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from lightning_arrcoc.relevance.baselines.baseline import Baseline


class Everything(Baseline):
    """Every cell alike; with a budget of 1.0 it is the stock model at no cost."""

    def relevance_logit(
        self, count: int, rows: int, columns: int, images_I3hw: Tensor | None
    ) -> Tensor:
        return torch.zeros(count, rows, columns)


class RandomCells(Baseline):
    """A uniformly random choice, drawn anew for each image from a generator of its own.

    Args:
        seed: two selectors with one seed choose alike, call by call.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def relevance_logit(
        self, count: int, rows: int, columns: int, images_I3hw: Tensor | None
    ) -> Tensor:
        return torch.randn(count, rows, columns, generator=self.generator)


class UniformGrid(Baseline):
    """Cells spread evenly, the same in every image: each next one farthest from those before.

    Source: T. Gonzalez, "Clustering to minimize the maximum intercluster distance", Theoretical
    Computer Science 1985, section 3 (farthest-first traversal), begun in the middle. A smaller
    budget keeps a part of what a larger one keeps.
    """

    def relevance_logit(
        self, count: int, rows: int, columns: int, images_I3hw: Tensor | None
    ) -> Tensor:
        return spread_order(rows, columns).expand(count, -1, -1)


@lru_cache(maxsize=64)
def spread_order(rows: int, columns: int) -> Tensor:
    """Minus the turn ``(H, W)`` in which each cell is taken."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    place_N2 = torch.stack([y, x], -1).flatten(0, 1).float()
    middle = place_N2.mean(0)
    return -farthest_first(place_N2, int((place_N2 - middle).norm(dim=1).argmin())).view(
        rows, columns
    )


def farthest_first(points_ND: Tensor, first: int) -> Tensor:
    """Turn ``(N,)`` fp32 of each point when each next one is the farthest from those before."""
    turn_N = torch.zeros(len(points_ND))
    nearest_N = torch.full((len(points_ND),), torch.inf, device=points_ND.device)
    chosen = first
    for turn in range(len(points_ND)):
        turn_N[chosen] = turn
        nearest_N = torch.minimum(nearest_N, (points_ND - points_ND[chosen]).square().sum(1))
        nearest_N[chosen] = -torch.inf
        chosen = int(nearest_N.argmax())
    return turn_N
