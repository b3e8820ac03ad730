"""How a budget is spent on a quadtree: few tokens for much ground, or many for little.

A region is 4x4 cells. It can be one token (level 2), four quadrants, or dropped; a quadrant is one
token (level 1), up to four cells (level 0), or dropped. A token of level l is worth ``compress**l``
of what its cells are worth, and of none more than ``compress / (1 - compress)`` times the mean:
what is more relevant than that needs its detail. Regions and quadrants at the margin hold the cells
that exist.

Arrays here end in ``R`` regions, ``Q`` quadrants of a region, ``4`` cells of a quadrant and ``K``
numbers of tokens from 0 up; values are fp64, because shares span many orders of magnitude.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

REGION = 4  # a region is this many cells high and wide
DROPPED = -1  # in maps of levels
ABSENT = -1e18  # value of what cannot be chosen; finite, because infinities subtract to NaN


def split_regions(
    values_HW: Sequence[Tensor], compress: Sequence[float], tokens: int
) -> list[Tensor]:
    """Choose tokens on all three levels for the images of one sample.

    Every region offers the best value for each number of tokens. Of these the steepest gains are
    taken (the upper concave envelopes, all regions together); what then lies inside a step goes
    to the one region that makes the most of it. The value reached is the greatest for the number
    of tokens, up to that last step.

    Args:
        values_HW: what each cell is worth, not negative, on the CPU.
        compress: for each image 0 (coarse tokens are worth nothing) to 1 (as much as single cells).
        tokens: how many to choose, 1 to the number of all cells.

    Returns:
        For each image a map ``(H, W)`` int64 that holds a token's level at its first cell (top
        left) and -1 elsewhere.

    Source: Y. Shoham, A. Gersho, "Efficient bit allocation for an arbitrary set of quantizers",
    IEEE Trans. ASSP 1988, sections II and III (envelopes, the steepest first); P. Chou, T.
    Lookabaugh, R. Gray, "Optimal pruning with applications to tree-structured source coding and
    modeling", IEEE Trans. Information Theory 1989 (the same on trees). Departure: the number of
    tokens is met exactly.
    """
    cells_RQ4 = torch.cat([_into_regions(values) for values in values_HW])
    counts = [-(-v.shape[0] // REGION) * -(-v.shape[1] // REGION) for v in values_HW]
    worth_R = cells_RQ4.new_tensor(compress).repeat_interleave(torch.tensor(counts))
    real_RQ4 = cells_RQ4 > ABSENT / 2
    mean = cells_RQ4[real_RQ4].mean()
    most_R = torch.where(worth_R < 1, worth_R / (1 - worth_R) * mean, torch.inf)
    carried_RQ4 = cells_RQ4.minimum(most_R[:, None, None])
    sums_RQ = torch.where(real_RQ4, carried_RQ4, 0).sum(-1)
    order_RQ4 = cells_RQ4.argsort(dim=-1, descending=True, stable=True)
    by_cells_RQK = F.pad(cells_RQ4.gather(-1, order_RQ4).cumsum(-1), (1, 0))
    as_one_RQ = torch.where(real_RQ4.any(-1), worth_R[:, None] * sums_RQ, ABSENT)
    quadrant_RQK = _or_as_one(by_cells_RQK, as_one_RQ)
    half_R2K = _joined(quadrant_RQK[:, 0::2], quadrant_RQK[:, 1::2])
    by_quadrants_RK = _joined(half_R2K[:, 0], half_R2K[:, 1])
    as_one_R = worth_R**2 * sums_RQ.sum(-1)

    tokens_R = _steepest(_or_as_one(by_quadrants_RK, as_one_R), tokens)
    whole_R = (tokens_R == 1) & (as_one_R > by_quadrants_RK[:, 1])
    upper_R = _first_share(half_R2K[:, 0], half_R2K[:, 1], tokens_R)
    tokens_R2 = torch.stack([upper_R, tokens_R - upper_R], 1)
    left_R2 = _first_share(quadrant_RQK[:, 0::2], quadrant_RQK[:, 1::2], tokens_R2)
    tokens_RQ = torch.stack([left_R2, tokens_R2 - left_R2], 2).flatten(1)
    tokens_RQ = tokens_RQ.masked_fill(whole_R[:, None], 0)
    merged_RQ = (tokens_RQ == 1) & (as_one_RQ > by_cells_RQK[..., 1])
    cells_kept_RQ1 = tokens_RQ.masked_fill(merged_RQ, 0)[..., None]

    level_RQ4 = torch.where(order_RQ4.argsort(dim=-1) < cells_kept_RQ1, 0, DROPPED)
    level_RQ4[..., 0].masked_fill_(merged_RQ, 1)
    level_RQ4[:, 0, 0].masked_fill_(whole_R, 2)
    parts = torch.split(level_RQ4, counts)
    return [_from_regions(p, v.shape) for p, v in zip(parts, values_HW, strict=True)]


def _into_regions(values_HW: Tensor) -> Tensor:
    """``(R, 4, 4)``: quadrants and cells in reading order, `ABSENT` beyond the margin."""
    rows, columns = values_HW.shape
    padding = (0, -columns % REGION, 0, -rows % REGION)
    padded = F.pad(values_HW.double(), padding, value=ABSENT)
    down, across = padded.shape[0] // REGION, padded.shape[1] // REGION
    blocks = padded.view(down, 2, 2, across, 2, 2)
    return blocks.permute(0, 3, 1, 4, 2, 5).reshape(-1, 4, 4)


def _from_regions(level_RQ4: Tensor, shape: torch.Size) -> Tensor:
    rows, columns = -(-shape[0] // REGION), -(-shape[1] // REGION)
    blocks = level_RQ4.view(rows, columns, 2, 2, 2, 2).permute(0, 2, 4, 1, 3, 5)
    return blocks.reshape(rows * REGION, columns * REGION)[: shape[0], : shape[1]]


def _or_as_one(by_parts_K: Tensor, as_one: Tensor) -> Tensor:
    """The same values, where a single token may be the whole."""
    values_K = by_parts_K.clone()
    values_K[..., 1] = values_K[..., 1].maximum(as_one)
    return values_K


def _joined(one_K: Tensor, other_K: Tensor) -> Tensor:
    """Best value of two parts together for each number of tokens (max-plus convolution)."""
    ones, others = one_K.shape[-1], other_K.shape[-1]
    best_K = one_K.new_full((*one_K.shape[:-1], ones + others - 1), 16 * ABSENT)
    for taken in range(ones):
        there = best_K[..., taken : taken + others]
        torch.maximum(there, one_K[..., taken, None] + other_K, out=there)
    return best_K


def _first_share(one_K: Tensor, other_K: Tensor, tokens: Tensor) -> Tensor:
    """How many of the tokens the first of two parts takes where both together are worth most."""
    taken_K = torch.arange(one_K.shape[-1])
    left_K = tokens[..., None] - taken_K
    possible_K = (left_K >= 0) & (left_K < other_K.shape[-1])
    total_K = one_K + other_K.gather(-1, left_K.clamp(0, other_K.shape[-1] - 1))
    return total_K.masked_fill(~possible_K, -torch.inf).argmax(-1)


def _steepest(value_RK: Tensor, tokens: int) -> Tensor:
    """Tokens for each region ``(R,)``: the steepest gains first."""
    most = value_RK.shape[1] - 1
    number_K = torch.arange(most + 1, dtype=value_RK.dtype)
    # Slope from a to b tokens; the envelope's k-th step is max over b >= k of min over a < k.
    run = number_K[None, 1:] - number_K[:-1, None]
    slope_Rab = (value_RK[:, None, 1:] - value_RK[:, :-1, None]) / run.clamp(min=1)
    lowest_Rab = slope_Rab.cummin(1).values
    step_RK = lowest_Rab.masked_fill(run < 1, -torch.inf).amax(2)
    taken = step_RK.flatten().argsort(dim=0, descending=True, stable=True)[:tokens]
    tokens_R = torch.bincount(taken // most, minlength=len(value_RK))
    # One region at most is left inside a step: equal steps are taken region by region.
    envelope_RK = F.pad(step_RK.cumsum(1), (1, 0))
    corner_RK = value_RK >= envelope_RK - 1e-12 * envelope_RK.abs()
    reached_RK = torch.where(corner_RK & (number_K <= tokens_R[:, None]), torch.arange(most + 1), 0)
    corner_R = reached_RK.amax(1)
    surplus = int((tokens_R - corner_R).sum())
    if surplus:
        further_R = corner_R + surplus
        gain_R = (
            value_RK.gather(1, further_R.clamp(max=most)[:, None])
            - value_RK.gather(1, corner_R[:, None])
        )[:, 0].masked_fill(further_R > most, -torch.inf)
        corner_R[gain_R.argmax()] += surplus
    return corner_R
