"""Allocations made by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from lightning_arrcoc.relevance import Allocation

Token = tuple[int, int, int]  # level, and first row and column of what it covers
Allocate = Callable[..., Allocation]


@pytest.fixture
def allocate() -> Allocate:
    """Tokens on a grid; one that sticks out of it stands in the middle of what it covers."""

    def made(rows: int, columns: int, tokens: Sequence[Token]) -> Allocation:
        centres = [
            (
                (top + min(top + 2**level, rows) - 1) / 2,
                (left + min(left + 2**level, columns) - 1) / 2,
            )
            for level, top, left in tokens
        ]
        return Allocation(
            positions=torch.tensor(centres, dtype=torch.float32).view(-1, 2),
            levels=torch.tensor([level for level, _, _ in tokens], dtype=torch.int64),
            budgets=torch.tensor([[len(tokens)]]),
            relevance=torch.linspace(0, 1, rows * columns).view(rows, columns),
            tensions=torch.tensor([0.5, 0.5, 0.5]),
        )

    return made
