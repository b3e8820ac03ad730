"""What a checkpoint tells about its run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_arrcoc.callbacks.checkpointing.stamps import metrics_of


@pytest.mark.parametrize(
    ("interrupted", "ranks", "told"),
    [(False, 2, {"loss": 0.5}), (True, 1, {"loss": 0.5}), (True, 2, {})],
)
def test_metrics_are_told_unless_computing_them_may_ask_a_rank_that_is_gone(
    interrupted: bool, ranks: int, told: dict[str, float]
) -> None:
    trainer: Any = SimpleNamespace(
        interrupted=interrupted, world_size=ranks, callback_metrics={"loss": torch.tensor(0.5)}
    )
    assert metrics_of(trainer) == told
