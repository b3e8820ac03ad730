"""How far a step moves the weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_arrcoc.callbacks.gradients.norms import norms_of, wide
from lightning_arrcoc.callbacks.gradients.sharding import Copies, local

# Chosen by us: a copy of so many numbers is 256 MiB in fp32. Of larger models the first numbers of
# every tensor are compared, the same share of each.
MOST_NUMBERS = 2**26


class UpdateMeasure:
    """Compares weights before and after a step; what is copied is let go after it."""

    def __init__(self) -> None:
        self._before: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def begin(self, parameters: Sequence[Tensor]) -> None:
        parts = [local(parameter.detach()) for parameter in parameters]
        share = min(1.0, MOST_NUMBERS / max(1, sum(part.numel() for part in parts)))
        self._before = [
            (parameter, _first(part, share).clone())
            for parameter, part in zip(parameters, parts, strict=True)
        ]

    @torch.no_grad()
    def end(self, device: torch.device, copies: Copies | None = None) -> Tensor | None:
        """Sums of squares ``(2,)`` of the update and of the weights; None if nothing was begun."""
        before, self._before = self._before, []
        if not before:
            return None
        sums = torch.zeros(2, dtype=wide(device), device=device)
        for parameter, kept in before:
            now = local(parameter.detach()).flatten()[: kept.numel()]
            moved = torch.stack(norms_of([kept.sub_(now), now])).to(sums).square()
            sums += moved if copies is None else moved / copies(parameter)
        return sums


def _first(part: Tensor, share: float) -> Tensor:
    numbers = part.flatten()
    return numbers[: max(1, int(share * numbers.numel()))]
