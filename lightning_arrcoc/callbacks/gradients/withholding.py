"""Keeping an optimizer from a step, without a word to its moments."""

from __future__ import annotations

from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.amp.grad_scaler import OptState
from torch.optim import SGD, Adam, AdamW, Optimizer

# Who can: the optimizer's kernel on the device; this process, which has to know, by taking the
# gradients away; or the GradScaler alone, of what is not finite.
Way = Literal["device", "host", "scaler"]


def way_to_withhold(
    optimizer: Optimizer, scaler: Any, scaled: Tensor | None, gradients: int
) -> Way:
    """Who can keep this optimizer from its next step.

    Args:
        optimizer: about to step.
        scaler: the run's GradScaler, if it has one.
        scaled: the scale that gradients still carry, None where they carry none.
        gradients: how many there are.
    """
    if scaled is not None:
        return "scaler"
    if scaler is not None:
        return "host"  # its own flag takes the place of whatever a kernel is told before
    return "device" if _heeds_found_inf(optimizer, gradients) else "host"


def _heeds_found_inf(optimizer: Optimizer, gradients: int) -> bool:
    """Whether its kernel does nothing where `optimizer.found_inf` is one.

    A subclass may step in a way of its own, and DTensors do not go with a plain flag.
    """
    groups = optimizer.param_groups
    if type(optimizer) not in (Adam, AdamW, SGD) or not all(g.get("fused") for g in groups):
        return False
    if any(hasattr(parameter, "to_local") for parameter in groups[0]["params"][:1]):
        return False
    # A first fused step of SGD makes momentum of memory as it finds it, and were it withheld then,
    # would go on with that.
    has_momentum = any(group.get("momentum") for group in groups)
    return not has_momentum or len(optimizer.state) >= gradients


def withhold_on_device(optimizer: Optimizer, flag: Any) -> None:
    """As GradScaler tells fused optimizers: the kernel reads the flag when it runs."""
    found = torch.as_tensor(flag, dtype=torch.float32)
    optimizer.found_inf = found.reshape(())  # type: ignore[attr-defined]


def release(optimizer: Optimizer) -> None:
    """The next step is free again."""
    if hasattr(optimizer, "found_inf"):
        del optimizer.found_inf


def take_gradients(optimizer: Optimizer) -> None:
    """What has no gradient is not touched: neither weights, nor moments, nor by weight decay."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def scaler_of(trainer: pl.Trainer) -> Any:
    """The run's GradScaler, None without one."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return scaler if scaler is not None and scaler.is_enabled() else None


def loss_scale(scaler: Any) -> Tensor | None:
    """The scale on the device: the public `get_scale` waits for it."""
    scale: Tensor | None = scaler._scale
    return scale


def scale_of_gradients(scaler: Any, optimizer: Optimizer) -> Tensor | None:
    """The scale that gradients carry when the optimizer is about to step; None for none.

    Lightning unscales before its hook, but not for fused optimizers, which do it in their kernel.
    Whether it was done stands in the scaler's private record alone.
    """
    if scaler is None:
        return None
    record = scaler._per_optimizer_states.get(id(optimizer), {})
    if record.get("stage") is OptState.UNSCALED:
        return None
    return loss_scale(scaler)
