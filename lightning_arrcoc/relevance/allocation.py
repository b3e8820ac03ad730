"""Step 4: relevance -> which cells become tokens, and how finely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_arrcoc.relevance.diversity import unlike
from lightning_arrcoc.relevance.quadtree import DROPPED, REGION, split_regions

# Chosen by us: fp64 resolves the ranks of a hundred thousand cells, and it sways no real choice.
BY_RANK = 1e-4


class Allocation(NamedTuple):
    """The tokens that one image was given.

    Attributes:
        positions: centres ``(K, 2)`` as (row, column) in cell units, fp32. Tokens stand in the
            raster order of their first cells.
        levels: ``(K,)`` int64; a token of level l covers 2^l x 2^l cells, as far as they exist.
        budgets: tokens in each region of 4x4 cells, ``(ceil(H/4), ceil(W/4))`` int64.
        relevance: the map they were chosen by, ``(H, W)`` in [0, 1], before look-alikes lost.
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
        """Flat index ``(K,)`` of each token's first cell, ascending: its place in the sequence."""
        rows, columns = self.boxes[:, :2].unbind(-1)
        return rows * self.relevance.shape[-1] + columns

    @property
    def covered(self) -> Tensor:
        """Which cells are inside a token of any level ``(H, W)``."""
        covered = torch.zeros_like(self.relevance, dtype=torch.bool)
        for top, left, bottom, right in self.boxes.tolist():
            covered[top:bottom, left:right] = True
        return covered


class ImageRelevance(NamedTuple):
    """What the allocator knows of one image.

    Attributes:
        logits: log-odds of the relevance ``(H, W)``.
        tensions: exploit, compress, focus ``(T,)``.
        looks: what cells are told apart by ``(D, H, W)``; None where nothing is known of that.
    """

    logits: Tensor
    tensions: Tensor
    looks: Tensor | None = None


class TokenAllocator(nn.Module):
    """Spends a sample's budget where the relevance is, on a quadtree or on single cells.

    A cell is worth its share of the relevance: the softmax of ``logits / temperature`` over all
    cells of the sample (`worths`), less where it looks like a cell of more relevance (by the
    tension focus, see `unlike`). With levels, a token of 2x2 cells is worth up to `compress` times
    what they are worth, one of 4x4 up to its square; the tokens that are worth most together are
    chosen (`split_regions`). So compress at 0 keeps the most relevant cells, and at 1 it shrinks
    the image as far as the budget demands.

    Args:
        num_positions: tokens for one sample: a number, or as a float in (0, 1] a share of its
            cells (rounded, at least one).
        coarse: False keeps single cells only, whatever compress says.
        temperature: turns log-odds into shares, and tells a few cells from hundreds; objectives
            that teach shares use it too. At 1 the log-odds would have to grow first, and in
            training the tension exploit did that by falling to 0.05, whatever was asked.

    Raises:
        ValueError: the number is below one, the share outside (0, 1], or the temperature not
            positive.
    """

    def __init__(
        self, num_positions: int | float = 0.1, coarse: bool = True, temperature: float = 0.25
    ) -> None:
        super().__init__()
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature={temperature}; expected a finite number above 0.")
        self.num_positions = check_budget(num_positions)
        self.coarse = coarse
        self.temperature = temperature

    @torch.no_grad()
    def forward(
        self, found: Sequence[ImageRelevance], budget: int | float | None = None
    ) -> list[Allocation]:
        """Spend one sample's budget over all of its images.

        Args:
            found: what is relevant in each of them.
            budget: as `num_positions`, which it replaces for this call.

        Raises:
            ValueError: a budget that cannot be one, or beyond the cells; relevance or tensions that
                are not finite.
        """
        sizes = [image.logits.numel() for image in found]
        tokens = token_count(self.num_positions if budget is None else budget, sum(sizes))
        # In fp64 on the CPU: shares span many orders of magnitude, and every device agrees.
        logits_N = torch.cat([image.logits.flatten() for image in found]).cpu().double()
        _refuse_not_finite(logits_N, found)
        if tokens < len(logits_N):
            logits_N = logits_N + self.temperature * unlike(found, logits_N, tokens)
        maps = [
            part.view_as(image.logits)
            for part, image in zip(torch.split(logits_N, sizes), found, strict=True)
        ]
        compress = [float(image.tensions[1]) for image in found]
        if self.coarse and any(compress) and tokens < len(logits_N):
            worth_N = torch.split(worths(logits_N, self.temperature), sizes)
            values = [worth.view_as(part) for worth, part in zip(worth_N, maps, strict=True)]
            levels = split_regions(values, compress, tokens)
        else:
            levels = _single_cells(maps, tokens)
        return [_allocation(level, image) for level, image in zip(levels, found, strict=True)]


def _refuse_not_finite(logits_N: Tensor, found: Sequence[ImageRelevance]) -> None:
    tensions = torch.stack([image.tensions for image in found]).cpu()
    for name, values in (("Relevance", logits_N), ("Tensions", tensions)):
        wrong = int((~values.isfinite()).sum())
        if wrong:
            raise ValueError(
                f"{name}: {wrong} of {values.numel()} values are not finite, so no choice can be "
                "made of them. ARR-COC's weights or textures hold NaN: go back to a checkpoint "
                "from before, with a lower training.learning_rate."
            )


def worths(logits_N: Tensor, temperature: float) -> Tensor:
    """What each cell is worth ``(N,)`` fp64: its share, and a little by its rank.

    Beside a sure cell the shares of others are lost in rounding; by rank they keep their order.
    """
    shares_N = (logits_N / temperature).softmax(0)
    rank_N = logits_N.argsort().argsort()
    by_rank_N = (rank_N.double() + 0.5) / len(rank_N) ** 2 * 2
    return (1 - BY_RANK) * shares_N + BY_RANK * by_rank_N


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


def _single_cells(maps_HW: Sequence[Tensor], tokens: int) -> list[Tensor]:
    """The most relevant cells of all images, each as one token; as `split_regions`."""
    level_N = torch.full((sum(part.numel() for part in maps_HW),), DROPPED)
    level_N[keep_top(torch.cat([part.flatten() for part in maps_HW]), tokens)] = 0
    parts = torch.split(level_N, [part.numel() for part in maps_HW])
    return [level.view_as(part) for level, part in zip(parts, maps_HW, strict=True)]


def _allocation(level_HW: Tensor, image: ImageRelevance) -> Allocation:
    """From a token's level at its first cell to what the model needs to know of it."""
    first_K2 = (level_HW != DROPPED).nonzero()
    levels_K = level_HW[first_K2[:, 0], first_K2[:, 1]]
    last_K2 = (first_K2 + 2 ** levels_K[:, None]).minimum(torch.tensor(level_HW.shape)) - 1
    rows, columns = level_HW.shape
    padded = F.pad((level_HW != DROPPED).long(), (0, -columns % REGION, 0, -rows % REGION))
    regions = padded.unfold(0, REGION, REGION).unfold(1, REGION, REGION).sum((-2, -1))
    device = image.logits.device
    return Allocation(
        ((first_K2 + last_K2).float() / 2).to(device),
        levels_K.to(device),
        regions.to(device),
        image.logits.sigmoid(),
        image.tensions.detach(),
    )
