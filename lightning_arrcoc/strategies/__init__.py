"""Strategies for a large frozen model with a small trained one; they load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from lightning_arrcoc.strategies.frozen_deepspeed import FrozenDeepSpeedStrategy
    from lightning_arrcoc.strategies.frozen_fsdp import FrozenFSDPStrategy

__all__ = ["FrozenDeepSpeedStrategy", "FrozenFSDPStrategy"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "frozen_deepspeed": ["FrozenDeepSpeedStrategy"],
        "frozen_fsdp": ["FrozenFSDPStrategy"],
    },
)
