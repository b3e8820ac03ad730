"""Relevance -> visual tokens, with numpy alone: what stands outside an exported selector.

A file by itself: `export` copies it beside the selector, and it runs without lightning_arrcoc. It
chooses what `lightning_arrcoc.relevance.TokenAllocator` chooses, which says why things are so.
Where choices are worth the same but for rounding, as all are with compress at 1, they may differ.

    relevance_logit, tensions, looks = session.run(None, {...})     # of one image
    tokens = allocate(relevance_logit[0], tensions[0], looks[0], budget=0.1)

Arrays end in their axes: H x W cells, N = H * W, R regions of 4 x 4 cells, Q quadrants of a region,
4 cells of a quadrant, K numbers of tokens from 0 up or tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
REGION, DROPPED, ABSENT = 4, -1, -1e18
BY_RANK, ALIKE, MOST_ORIGINALS, MOST_ALIKE = 1e-4, 0.25, 128, 0.999


class Tokens(NamedTuple):
    """The tokens of one image, in the raster order of their first cells.

    Attributes:
        boxes: ``(K, 4)`` first row and column, and those behind the last; in cells of 32 x 32 px.
        positions: centres ``(K, 2)`` as (row, column) in cells.
        levels: ``(K,)`` a token of level l covers 2^l x 2^l cells, as far as they exist.
    """

    boxes: Whole
    positions: Floats
    levels: Whole


def allocate(
    relevance_logit_HW: Floats,
    tensions_T: Floats,
    looks_DHW: Floats | None,
    budget: int | float = 0.1,
    *,
    coarse: bool = True,
    temperature: float = 0.25,
) -> Tokens:
    """Spend a budget on one image.

    Args:
        relevance_logit_HW: as the selector gives it, ``(H, W)``.
        tensions_T: exploit, compress, focus ``(3,)``.
        looks_DHW: what cells are told apart by ``(D, H, W)``; None: no look-alikes are heeded.
        budget: a number of tokens as an int, or a share of the cells as a float in (0, 1].
        coarse, temperature: as in the `arr_coc_config.json` beside the selector.

    Raises:
        ValueError: a budget that cannot be one, or values that are not finite.
    """
    logits_N = np.asarray(relevance_logit_HW, np.float64).ravel()
    tokens = _count(budget, len(logits_N))
    compress, focus = float(tensions_T[1]), float(tensions_T[2])
    if not (np.isfinite(logits_N).all() and np.isfinite(tensions_T).all()):
        raise ValueError("The relevance or the tensions are not finite, so no choice can be made.")
    if tokens < len(logits_N) and looks_DHW is not None and focus < 1:
        logits_N = logits_N + temperature * _unlike(logits_N, looks_DHW, focus, tokens)
    shape = relevance_logit_HW.shape
    if coarse and compress and tokens < len(logits_N):
        levels_HW = _split(_worths(logits_N, temperature).reshape(shape), compress, tokens)
    else:
        levels_HW = np.full(len(logits_N), DROPPED)
        levels_HW[np.argsort(-logits_N, kind="stable")[:tokens]] = 0
        levels_HW = levels_HW.reshape(shape)
    first_K2 = np.argwhere(levels_HW != DROPPED)
    levels_K = levels_HW[first_K2[:, 0], first_K2[:, 1]]
    behind_K2 = np.minimum(first_K2 + 2 ** levels_K[:, None], shape)
    boxes_K4 = np.concatenate([first_K2, behind_K2], 1)
    return Tokens(boxes_K4, (first_K2 + behind_K2 - 1) / 2, levels_K)


def _count(budget: int | float, cells: int) -> int:
    if isinstance(budget, float) and 0 < budget <= 1:
        return max(1, round(budget * cells))
    if isinstance(budget, int) and not isinstance(budget, bool) and 1 <= budget <= cells:
        return budget
    raise ValueError(f"budget={budget!r}; expected 1 to {cells} (int), or a share (float, 0 to 1).")


def _worths(logits_N: Floats, temperature: float) -> Floats:
    scaled_N = logits_N / temperature
    shares_N = np.exp(scaled_N - scaled_N.max())
    shares_N /= shares_N.sum()
    rank_N = np.argsort(np.argsort(logits_N, kind="stable"), kind="stable")
    worths: Floats = (1 - BY_RANK) * shares_N + BY_RANK * (rank_N + 0.5) / len(rank_N) ** 2 * 2
    return worths


def _unlike(logits_N: Floats, looks_DHW: Floats, focus: float, tokens: int) -> Floats:
    looks_ND = np.asarray(looks_DHW, np.float64).reshape(len(looks_DHW), -1).T
    order_N, count = np.argsort(-logits_N, kind="stable"), min(tokens, MOST_ORIGINALS)
    ranked_ND = looks_ND[order_N] / looks_ND.shape[1] ** 0.5
    square_N = (ranked_ND**2).sum(1)
    from_KN = square_N[:count, None] - 2 * ranked_ND[:count] @ ranked_ND.T
    from_KN[:, :count][np.tril(np.ones((count, count), bool))] = np.inf
    nearest_N = np.empty_like(logits_N)
    nearest_N[order_N] = np.clip(from_KN.min(0) + square_N, 0, None)
    unlike: Floats = np.log1p(-(1 - focus) * MOST_ALIKE * np.exp(-nearest_N / (2 * ALIKE**2)))
    return unlike


def _split(values_HW: Floats, compress: float, tokens: int) -> Whole:
    """The level of a token at its first cell, -1 elsewhere ``(H, W)``."""
    cells_RQ4 = _into_regions(values_HW)
    real_RQ4 = cells_RQ4 > ABSENT / 2
    most = compress / (1 - compress) * cells_RQ4[real_RQ4].mean() if compress < 1 else np.inf
    sums_RQ = np.where(real_RQ4, np.minimum(cells_RQ4, most), 0).sum(-1)
    order_RQ4 = np.argsort(-cells_RQ4, -1, kind="stable")
    sorted_RQ4 = np.take_along_axis(cells_RQ4, order_RQ4, -1)
    by_cells_RQK = np.pad(sorted_RQ4.cumsum(-1), ((0, 0), (0, 0), (1, 0)))
    as_one_RQ = np.where(real_RQ4.any(-1), compress * sums_RQ, ABSENT)
    quadrant_RQK = _or_as_one(by_cells_RQK, as_one_RQ)
    half_R2K = _joined(quadrant_RQK[:, 0::2], quadrant_RQK[:, 1::2])
    by_quadrants_RK = _joined(half_R2K[:, 0], half_R2K[:, 1])
    as_one_R = compress**2 * sums_RQ.sum(-1)

    tokens_R = _steepest(_or_as_one(by_quadrants_RK, as_one_R), tokens)
    whole_R = (tokens_R == 1) & (as_one_R > by_quadrants_RK[:, 1])
    upper_R = _first_share(half_R2K[:, 0], half_R2K[:, 1], tokens_R)
    tokens_R2 = np.stack([upper_R, tokens_R - upper_R], 1)
    left_R2 = _first_share(quadrant_RQK[:, 0::2], quadrant_RQK[:, 1::2], tokens_R2)
    tokens_RQ = np.stack([left_R2, tokens_R2 - left_R2], 2).reshape(len(tokens_R), 4)
    tokens_RQ[whole_R] = 0
    merged_RQ = (tokens_RQ == 1) & (as_one_RQ > by_cells_RQK[..., 1])
    kept_RQ1 = np.where(merged_RQ, 0, tokens_RQ)[..., None]

    level_RQ4 = np.where(np.argsort(order_RQ4, -1) < kept_RQ1, 0, DROPPED)
    level_RQ4[..., 0][merged_RQ] = 1
    level_RQ4[whole_R, 0, 0] = 2
    rows, columns = values_HW.shape
    down, across = -(-rows // REGION), -(-columns // REGION)
    blocks = level_RQ4.reshape(down, across, 2, 2, 2, 2).transpose(0, 2, 4, 1, 3, 5)
    return blocks.reshape(down * REGION, across * REGION)[:rows, :columns]


def _into_regions(values_HW: Floats) -> Floats:
    rows, columns = values_HW.shape
    padding = ((0, -rows % REGION), (0, -columns % REGION))
    padded = np.pad(values_HW, padding, constant_values=ABSENT)
    down, across = padded.shape[0] // REGION, padded.shape[1] // REGION
    blocks = padded.reshape(down, 2, 2, across, 2, 2).transpose(0, 3, 1, 4, 2, 5)
    return blocks.reshape(down * across, 4, 4)


def _or_as_one(by_parts_K: Floats, as_one: Floats) -> Floats:
    values_K = by_parts_K.copy()
    values_K[..., 1] = np.maximum(values_K[..., 1], as_one)
    return values_K


def _joined(one_K: Floats, other_K: Floats) -> Floats:
    """Best value of two parts together for each number of tokens."""
    ones, others = one_K.shape[-1], other_K.shape[-1]
    best_K = np.full((*one_K.shape[:-1], ones + others - 1), 16 * ABSENT)
    for taken in range(ones):
        there = best_K[..., taken : taken + others]
        np.maximum(there, one_K[..., taken, None] + other_K, out=there)
    return best_K


def _first_share(one_K: Floats, other_K: Floats, tokens: Whole) -> Whole:
    """How many tokens the first of two parts takes where both together are worth most."""
    taken_K = np.arange(one_K.shape[-1])
    left_K = tokens[..., None] - taken_K
    possible_K = (left_K >= 0) & (left_K < other_K.shape[-1])
    others = np.take_along_axis(other_K, left_K.clip(0, other_K.shape[-1] - 1), -1)
    share: Whole = np.where(possible_K, one_K + others, -np.inf).argmax(-1)
    return share


def _steepest(value_RK: Floats, tokens: int) -> Whole:
    """Tokens for each region: the steepest gains first, of the upper concave envelopes."""
    most = value_RK.shape[1] - 1
    number_K = np.arange(most + 1)
    run = number_K[None, 1:] - number_K[:-1, None]
    slope_Rab = (value_RK[:, None, 1:] - value_RK[:, :-1, None]) / run.clip(1)
    lowest_Rab = np.minimum.accumulate(slope_Rab, 1)
    step_RK = np.where(run < 1, -np.inf, lowest_Rab).max(2)
    taken = np.argsort(-step_RK.ravel(), kind="stable")[:tokens]
    tokens_R = np.bincount(taken // most, minlength=len(value_RK))
    envelope_RK = np.pad(step_RK.cumsum(1), ((0, 0), (1, 0)))
    corner_RK = value_RK >= envelope_RK - 1e-12 * np.abs(envelope_RK)
    reached_RK = np.where(corner_RK & (number_K <= tokens_R[:, None]), number_K, 0)
    corner_R: Whole = reached_RK.max(1)
    surplus = int((tokens_R - corner_R).sum())
    if surplus:
        further_R1 = (corner_R + surplus)[:, None]
        gain_R = (
            np.take_along_axis(value_RK, further_R1.clip(max=most), 1)
            - np.take_along_axis(value_RK, corner_R[:, None], 1)
        )[:, 0]
        corner_R[np.where(further_R1[:, 0] > most, -np.inf, gain_R).argmax()] += surplus
    return corner_R
