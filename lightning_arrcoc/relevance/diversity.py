"""Focus against diversify: what a cell loses by looking like one of more relevance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lightning_arrcoc.relevance.allocation import ImageRelevance

# Chosen by us: RMS distance of standardised textures at which two cells stop being look-alikes.
# Two cells of one flat ground lie closer, two strokes of one colour do not.
ALIKE = 0.25
MOST_ORIGINALS = 128  # chosen by us: compared with all cells they cost half a millisecond
MOST_ALIKE = 0.999  # an exact copy keeps a thousandth, so that copies still have an order


def unlike(found: Sequence[ImageRelevance], logits_N: Tensor, tokens: int) -> Tensor:
    """How far diversity lowers each cell: the logarithm of what remains of its worth.

    A cell loses ``(1 - focus) x similarity`` to the most similar of the more relevant cells. Only
    those that would be kept without all this count, which are at most `tokens`, and of them the
    first 128.

    Args:
        found: images of one sample.
        logits_N: relevance of all their cells.
        tokens: how many will be kept.

    Returns:
        ``(N,)`` fp64 on the CPU, 0 or below; all 0 where an image does not say what its cells
        look like.

    Source: J. Carbonell, J. Goldstein, "The use of MMR, diversity-based reranking for reordering
    documents and producing summaries", SIGIR 1998, section 2. Departures: all at once, the more
    relevant standing for those already chosen (as in X. Wang et al., "SOLOv2", NeurIPS 2020,
    section 3.3, Matrix NMS); relevance is multiplied, not lowered by a difference.
    """
    focus_N = torch.cat(
        [image.tensions[2].cpu().double().expand(image.logits.numel()) for image in found]
    )
    seen = [image.looks for image in found if image.looks is not None]
    if len(seen) < len(found) or bool((focus_N >= 1).all()):
        return torch.zeros_like(logits_N)
    # In fp64, which autocast leaves alone: in bf16 the distance of two copies would drown.
    looks_ND = torch.cat([look.flatten(1).T.double() for look in seen])
    order_N = logits_N.argsort(descending=True).to(looks_ND.device)
    nearest_N = looks_ND.new_empty(len(order_N))
    nearest_N[order_N] = _nearest_before(looks_ND[order_N], min(tokens, MOST_ORIGINALS))
    alike_N = (-nearest_N / (2 * ALIKE**2)).exp().cpu()
    return torch.log1p(-(1 - focus_N) * MOST_ALIKE * alike_N)


def _nearest_before(ranked_ND: Tensor, count: int) -> Tensor:
    """Least mean squared distance ``(N,)`` of each to those before it among the first `count`."""
    ranked_ND = ranked_ND / ranked_ND.shape[1] ** 0.5
    square_N = ranked_ND.square().sum(1)
    from_KN = torch.addmm(square_N[:count, None], ranked_ND[:count], ranked_ND.T, alpha=-2)
    before = torch.ones(count, count, dtype=torch.bool, device=ranked_ND.device).triu(1)
    from_KN[:, :count].masked_fill_(~before, torch.inf)
    return (from_KN.amin(0) + square_N).clamp(min=0)
