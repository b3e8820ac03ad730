"""Who takes part, how each chooses tokens, and what is told of its answer."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_arrcoc.compare.timing import TimeSplit
from lightning_arrcoc.contest import DOWNSAMPLED, FULL, RANDOM
from lightning_arrcoc.relevance import (
    Allocation,
    ImageRelevance,
    Knowing,
    Realization,
    TokenAllocator,
)
from lightning_arrcoc.relevance.allocation import token_count
from lightning_arrcoc.relevance.baselines import Everything, RandomCells
from lightning_arrcoc.relevance.textures import Channel
from lightning_arrcoc.vlm import ArrCocQwen3VL
from lightning_arrcoc.vlm.downsampling import downsample, smaller_grid

BUILT_IN = (FULL, DOWNSAMPLED, RANDOM)
Prompts = dict[str, Any]


class Contestant(NamedTuple):
    """One answer and why it came about; every tensor lies on the CPU.

    Attributes:
        name: as it was asked for.
        answer: in words.
        allocation: the tokens that the image was given, on its own grid: that of the smaller image
            for "downsampled".
        grid: rows and columns of the whole image, in cells.
        times: seconds, stage by stage.
        swap_s: seconds until its weights were in place, reading them included; not in `times`.
        peak_bytes, base_bytes: the most memory meanwhile and what was taken before: what CUDA
            allocated, or else the process's resident set.
        scores: information, perspectival, participatory ``(3, H, W)`` in [0, 1].
        scorers: names of those that are heard.
        textures: ``(C, H, W)``.
        channels: what they are; none for those who measure none.
        found: relevance as log-odds, tensions and looks, as the allocator heard them.
        allocator: what spent the budget.
    """

    name: str
    answer: str
    allocation: Allocation
    grid: tuple[int, int]
    times: TimeSplit
    swap_s: float
    peak_bytes: int
    base_bytes: int
    scores: Tensor
    scorers: tuple[str, ...]
    textures: Tensor
    channels: tuple[Channel, ...]
    found: ImageRelevance
    allocator: TokenAllocator

    @property
    def tokens(self) -> int:
        """Visual tokens that were kept."""
        return len(self.allocation.levels)

    @property
    def cells(self) -> int:
        """Visual tokens that there were to choose from."""
        return self.grid[0] * self.grid[1]

    @property
    def relevance(self) -> Tensor:
        """``(H, W)`` in [0, 1]."""
        return self.found.logits.sigmoid()

    @property
    def tensions(self) -> Tensor:
        """Exploit, compress, focus ``(3,)`` in [0, 1]."""
        return self.found.tensions


def reallocate(contestant: Contestant, budget: int | float) -> Allocation:
    """What the same contestant would be given at another budget: nothing but the allocation is new.

    It takes milliseconds, no device and no turn. On a CPU it is the allocation of a new comparison
    at that budget; where relevance was found on a GPU, look-alikes may differ in the last digit.

    Args:
        contestant: out of a comparison.
        budget: tokens as an int, or a share as a float in (0, 1]; nothing changes for "full".

    Raises:
        ValueError: a budget that cannot be one, or beyond the cells.
    """
    tokens = token_count(budget, contestant.cells)
    if contestant.name == FULL:
        return contestant.allocation
    if contestant.name == DOWNSAMPLED:
        logits = torch.zeros(smaller_grid(*contestant.grid, tokens))
        smaller = contestant.found._replace(logits=logits, looks=None)
        return _only(TokenAllocator(coarse=False)([smaller], 1.0))
    return _only(contestant.allocator([contestant.found], budget))


def selector_of(name: str, model: ArrCocQwen3VL) -> Any:
    """Who chooses: the model's own network, or a baseline.

    The random one draws alike each time: answers at several budgets keep parts of one choice.
    """
    if name in (FULL, DOWNSAMPLED):
        return Everything()
    return RandomCells() if name == RANDOM else model.arr_coc


def prepared(
    name: str, prompts: Prompts, budget: int | float, model: ArrCocQwen3VL
) -> tuple[Prompts, int | float]:
    """What is shown to a contestant, and how much of that it may keep."""
    if name == DOWNSAMPLED:
        return downsample(prompts, budget, model), 1.0
    return prompts, 1.0 if name == FULL else budget


def told(selector: Any, found: Realization) -> dict[str, Any]:
    """What a selector found in one image, on the CPU, by the names of `Contestant`."""
    texture = getattr(selector, "texture", None)
    image = found.image(0)
    return {
        "scores": _kept(found.scores[0]),
        "scorers": tuple(getattr(getattr(selector, "knowing", None), "scorers", Knowing.NAMES)),
        "textures": _kept(found.textures[0]),
        "channels": tuple(getattr(texture, "channels", ())),
        "found": ImageRelevance(
            _kept(image.logits),
            _kept(image.tensions),
            None if image.looks is None else _kept(image.looks),
        ),
        "allocator": copy.deepcopy(selector.allocator),
    }


def _kept(values: Tensor) -> Tensor:
    """A copy of its own: a view would keep what it is a part of."""
    return values.detach().to("cpu", copy=True)


def _only(allocations: list[Allocation]) -> Allocation:
    (allocation,) = allocations
    return allocation
