"""Budgets that are drawn while training, so that one model serves many."""

from __future__ import annotations

import numpy as np


class BudgetRange:
    """Shares of the tokens from a smallest to a largest.

    Args:
        lowest, highest: within (0, 1].

    Raises:
        ValueError: they are not in order, or outside.
    """

    def __init__(self, lowest: float, highest: float) -> None:
        self.lowest, self.highest = float(lowest), float(highest)
        if not 0 < self.lowest <= self.highest <= 1:
            raise ValueError(
                f"budgets={(lowest, highest)}; expected a smallest and a largest share, above 0 "
                "and up to 1."
            )

    def draw(self, random: np.random.Generator) -> float:
        """A share, drawn evenly by its logarithm: few tokens are as frequent as many."""
        return float(self.lowest * (self.highest / self.lowest) ** random.random())
