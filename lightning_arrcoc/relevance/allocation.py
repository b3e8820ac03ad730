"""Step 4: relevance -> which cells become tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

REGION = 4  # a region is this many cells high and wide


class Allocation(NamedTuple):
    """The tokens that one image was given.

    Attributes:
        positions: centres ``(K, 2)`` as (row, column) in cell units, fp32, in raster order.
        levels: ``(K,)`` int64; a token of level l covers 2^l x 2^l cells, as far as they exist.
        budgets: tokens in each region of 4x4 cells, ``(ceil(H/4), ceil(W/4))`` int64.
        relevance: the map they were chosen by, ``(H, W)`` in [0, 1].
        tensions: exploit, compress, focus ``(3,)`` in [0, 1].
    """

    positions: Tensor
    levels: Tensor
    budgets: Tensor
    relevance: Tensor
    tensions: Tensor

    @property
    def boxes(self) -> Tensor:
        """What each token covers ``(K, 4)``: first row and column, and those behind the last."""
        rows, columns = self.relevance.shape
        size_K1 = (2**self.levels)[:, None]
        first = (self.positions / size_K1).floor().long() * size_K1
        behind = (first + size_K1).minimum(first.new_tensor([rows, columns]))
        return torch.cat([first, behind], 1)

    @property
    def cells(self) -> Tensor:
        """Flat indices ``(K,)`` of the kept cells, ascending."""
        rows, columns = self.positions.long().unbind(-1)
        return rows * self.relevance.shape[-1] + columns


class TokenAllocator(nn.Module):
    """Keeps the most relevant cells, each as one token.

    Args:
        num_positions: tokens for one sample: a number, or as a float in (0, 1] a share of its
            cells (rounded, at least one).

    Raises:
        ValueError: the number is below one, or the share outside (0, 1].
    """

    def __init__(self, num_positions: int | float = 0.1) -> None:
        super().__init__()
        self.num_positions = check_budget(num_positions)

    def forward(
        self,
        relevance_logits: Sequence[Tensor],
        tensions: Sequence[Tensor],
        budget: int | float | None,
    ) -> list[Allocation]:
        """Spend one sample's budget over all of its images.

        Args:
            relevance_logits: log-odds ``(H, W)`` for each image. Their order decides; as
                probabilities the surest would be alike.
            tensions: ``(T,)`` for each image.
            budget: as `num_positions`, which it replaces for this call.
        """
        sizes = [logits.numel() for logits in relevance_logits]
        tokens = token_count(self.num_positions if budget is None else budget, sum(sizes))
        relevance_N = torch.cat([logits.flatten() for logits in relevance_logits])
        kept_N = torch.zeros_like(relevance_N, dtype=torch.bool)
        kept_N[keep_top(relevance_N, tokens)] = True
        return [
            _single_level(kept.view_as(logits), logits.sigmoid(), tension)
            for kept, logits, tension in zip(
                torch.split(kept_N, sizes), relevance_logits, tensions, strict=True
            )
        ]


def keep_top(relevance_N: Tensor, budget: int) -> Tensor:
    """Choose the most relevant cells.

    Args:
        relevance_N: one score per cell; any scale, only the order matters.
        budget: cells to keep, 1 to N.

    Returns:
        Cell indices ``(budget,)``, int64, ascending: Qwen reads an image in raster order.

    Raises:
        ValueError: `budget` is not in 1..N.
    """
    if not 1 <= budget <= len(relevance_N):
        raise ValueError(f"budget={budget}; expected 1 to {len(relevance_N)} cells.")
    return relevance_N.topk(budget, sorted=False).indices.sort().values


def check_budget(budget: int | float) -> int | float:
    """The budget itself, where it can be one.

    Raises:
        ValueError: it is a number of tokens below one or a share outside (0, 1].
    """
    whole = isinstance(budget, int) and not isinstance(budget, bool)
    if whole and budget >= 1:
        return budget
    if isinstance(budget, float) and 0 < budget <= 1:
        return budget
    raise ValueError(
        f"budget={budget!r}; expected a number of tokens from 1 up (an int), or a share of them "
        "above 0 and up to 1.0 (a float)."
    )


def token_count(budget: int | float, cells: int) -> int:
    """Tokens that a budget means for a sample of so many cells.

    Raises:
        ValueError: more tokens are asked for than there are cells.
    """
    check_budget(budget)
    if isinstance(budget, float):
        return max(1, round(budget * cells))
    if budget > cells:
        raise ValueError(
            f"budget={budget}, but this sample has {cells} visual tokens. Choose 1 to {cells}, a "
            "share such as 0.25, or larger images (model.max_pixels)."
        )
    return budget


def _single_level(kept_HW: Tensor, relevance_HW: Tensor, tensions_T: Tensor) -> Allocation:
    rows, columns = kept_HW.shape
    positions = kept_HW.nonzero()
    padded = F.pad(kept_HW.long(), (0, -columns % REGION, 0, -rows % REGION))
    regions = padded.unfold(0, REGION, REGION).unfold(1, REGION, REGION).sum((-2, -1))
    return Allocation(
        positions.float(), positions.new_zeros(len(positions)), regions, relevance_HW, tensions_T
    )
