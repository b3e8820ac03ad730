"""Figures of all processes side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
import torch.distributed as dist


class Highest(NamedTuple):
    """The largest of all ranks' figures, and whose it is; None where no rank knows."""

    value: float | None
    rank: int


class Ranks:
    """One collective for any number of figures, between CPUs by gloo: no device takes part."""

    def __init__(self) -> None:
        self._group: Any = None

    def start(self) -> None:
        """A collective of its own: for all ranks, at the start of a run."""
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo")

    @property
    def alone(self) -> bool:
        return self._group is None

    def highest(self, figures: Sequence[float | None]) -> list[Highest]:
        """The largest of each figure over all ranks; all of them call it, with as many."""
        if self._group is None:
            return [Highest(figure, 0) for figure in figures]
        most, ranks = torch.stack(self._gather(figures, unknown=-math.inf)).max(dim=0)
        return [
            Highest(None if value == -math.inf else value, rank)
            for value, rank in zip(most.tolist(), ranks.tolist(), strict=True)
        ]

    def everyone(self, figures: Sequence[float | None]) -> list[list[float | None]]:
        """Each rank's figures, in the order of ranks; all of them call it, with as many."""
        if self._group is None:
            return [list(figures)]
        return [
            [None if math.isnan(figure) else figure for figure in row.tolist()]
            for row in self._gather(figures, unknown=math.nan)
        ]

    def _gather(self, figures: Sequence[float | None], unknown: float) -> list[torch.Tensor]:
        mine = torch.tensor(
            [unknown if figure is None else figure for figure in figures], dtype=torch.float64
        )
        found = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(found, mine, group=self._group)
        return found

    def stop(self) -> None:
        """Let the group go, without a word to the others."""
        group, self._group = self._group, None
        if group is not None:
            with suppress(Exception):
                dist.destroy_process_group(group)
