"""The norm that DeepSpeed measures by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_arrcoc.callbacks.gradients.norms import Measured, wide


class EngineNorms:
    """Stands for `GradientNorms` where only an engine knows: after the step, the total alone."""

    copies = None
    group_names: tuple[str, ...] = ()
    parameters: tuple[Tensor, ...] = ()

    def __init__(self, engine: Any, device: torch.device) -> None:
        self.engine, self.device, self.wide = engine, device, wide(device)

    def measure(self, extra: Tensor) -> Measured | None:
        """None before the engine has stepped."""
        norm = self.engine.get_global_grad_norm()
        if norm is None:
            return None
        total = torch.as_tensor(norm, device=self.device).to(self.wide).reshape(())
        return Measured(total, total.new_zeros(0), total.new_zeros(0), extra)

    def nonfinite_names(self, each: Tensor) -> list[str]:
        """Nothing: gradients stay with the engine."""
        return []
