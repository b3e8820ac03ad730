"""Learning rates as they are."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.optim import Optimizer

from lightning_arrcoc.callbacks.throughput.counting import Count


def learning_rates(optimizers: Sequence[Optimizer]) -> dict[str, Count]:
    """By key: ``lr``, and further groups where they differ or lie on a device."""
    found: dict[str, Count] = {}
    for number, optimizer in enumerate(optimizers):
        area = f"optimizer_{number}/" if len(optimizers) > 1 else ""
        first = optimizer.param_groups[0]["lr"]
        found[f"{area}lr"] = first
        for group, settings in enumerate(optimizer.param_groups[1:], start=1):
            rate = settings["lr"]
            if isinstance(rate, Tensor) or rate != first:
                found[f"{area}lr_group_{group}"] = rate
    return found
