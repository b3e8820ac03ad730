"""Strategies for a large frozen model with a small trained one; they load on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_arrcoc.strategies.frozen_deepspeed import FrozenDeepSpeedStrategy
    from lightning_arrcoc.strategies.frozen_fsdp import FrozenFSDPStrategy

__all__ = ["FrozenDeepSpeedStrategy", "FrozenFSDPStrategy"]

_HOMES = {
    "FrozenDeepSpeedStrategy": "lightning_arrcoc.strategies.frozen_deepspeed",
    "FrozenFSDPStrategy": "lightning_arrcoc.strategies.frozen_fsdp",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
