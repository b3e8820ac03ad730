"""Which cells of a batch's images lie under which token.

Cells are counted through all images of a batch, in the order in which the vision tower answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_arrcoc.relevance import Allocation


def cell_counts(grid_thw_I3: Tensor, merge: int) -> list[int]:
    """Cells of each image: the language model's tokens at full resolution."""
    return [int(t * h * w) // merge**2 for t, h, w in grid_thw_I3.tolist()]


def first_cells(grid_thw_I3: Tensor, merge: int, allocations: Sequence[Allocation]) -> Tensor:
    """The first cell of each token ``(K,)``, ascending."""
    kept, offset = [], 0
    for allocation, count in zip(allocations, cell_counts(grid_thw_I3, merge), strict=True):
        kept.append(allocation.cells + offset)
        offset += count
    return torch.cat(kept)


class CoveredCells(NamedTuple):
    """The cells under each token, among the cells of all images.

    Attributes:
        cells: token by token, each token's in raster order ``(M,)``.
        counts: cells of each token ``(K,)``.
        columns: columns of cells among them ``(K,)``.
    """

    cells: Tensor
    counts: Tensor
    columns: Tensor

    def mean(self, features_ND: Tensor) -> Tensor:
        """Mean feature of each token's cells ``(K, D)``; of a single cell the feature itself."""
        found = features_ND[self.cells]
        if len(found) == len(self.counts):
            return found
        owner_M = torch.arange(len(self.counts), device=found.device)
        owner_M = owner_M.repeat_interleave(self.counts)
        # In fp32: sixteen bf16 numbers lose three bits when added.
        total = found.new_zeros((len(self.counts), found.shape[1]), dtype=torch.float32)
        mean = total.index_add(0, owner_M, found.float()) / self.counts[:, None]
        return mean.to(found.dtype)


def covered_cells(
    grid_thw_I3: Tensor, merge: int, allocations: Sequence[Allocation]
) -> CoveredCells:
    """Which cells each token of all images covers."""
    cells, counts, columns, offset = [], [], [], 0
    sizes = cell_counts(grid_thw_I3, merge)
    for allocation, size in zip(allocations, sizes, strict=True):
        top, left, bottom, right = allocation.boxes.unbind(-1)
        width_K, count_K = right - left, (bottom - top) * (right - left)
        ends = count_K.cumsum(0)
        place = torch.arange(int(count_K.sum()), device=ends.device)
        place = place - (ends - count_K).repeat_interleave(count_K)  # within its token
        width_M = width_K.repeat_interleave(count_K)
        first_M = allocation.cells.repeat_interleave(count_K)
        grid_columns = allocation.relevance.shape[-1]
        cells.append(offset + first_M + place // width_M * grid_columns + place % width_M)
        counts.append(count_K)
        columns.append(width_K)
        offset += size
    return CoveredCells(torch.cat(cells), torch.cat(counts), torch.cat(columns))
