"""Modules that compute in fp32 amid others of lower precision."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Any

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_arrcoc.plugins.casting import HALVES, lowered, raised, tensors
from lightning_arrcoc.plugins.fp32 import fp32_stretch
from lightning_arrcoc.plugins.island_patterns import Found


class Island:
    """Stands in for a module's `forward`: the same in fp32, cast at the border.

    It is an attribute of the module, neither a hook nor a module around it: names in a state_dict
    stay, torch.compile traces through it, copies and pickles of the module keep it.

    Attributes:
        border: dtype that outputs leave in; None leaves them in fp32.
        device_type: whose autocast is off.
    """

    def __init__(self, module: nn.Module, border: torch.dtype | None, device_type: str) -> None:
        self.was_set = "forward" in vars(module)
        self.inside = module.forward
        self.border = border
        self.device_type = device_type
        update_wrapper(self, self.inside)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with fp32_stretch(self.device_type) as is_outermost:
            output = self.inside(*raised(args), **raised(kwargs))
        if self.border is None or not is_outermost:
            return output
        return lowered(output, self.border)


def check_apart(found: Found) -> None:
    """No tensor may belong to an island and to what is not one: it has one dtype only.

    Raises:
        MisconfigurationException: one does, such as a tied weight.
    """
    owners = {
        id(tensor): name
        for name, island in found.islands.items()
        for tensor in (*island.parameters(), *island.buffers())
    }
    for name, module in found.others.items():
        for own, tensor in module.named_parameters(recurse=False):
            if id(tensor) in owners:
                raise MisconfigurationException(
                    f"{f'{name}.{own}'.lstrip('.')!r} is shared with {owners[id(tensor)]!r}, which "
                    f"is kept in fp32. One tensor has one dtype: keep {name or own!r} in fp32 too, "
                    "or neither."
                )


def lower(root: nn.Module, found: Found, dtype: torch.dtype) -> None:
    """Cast all floats of a module but the islands', and but the running sums of its metrics."""
    metrics = [module for module in found.others.values() if isinstance(module, Metric)]
    kept = {id(tensor) for tensor in (*found.tensors, *tensors([vars(m) for m in metrics]))}
    kept |= {id(tensor.grad) for tensor in found.tensors if tensor.grad is not None}

    def change(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() and id(tensor) not in kept else tensor

    apply(root, change)
    for metric in metrics:  # which notes the dtype of a cast, and rounds what it is given
        apply(metric, lambda tensor: tensor)


def hold(module: nn.Module, border: torch.dtype | None, device_type: str) -> None:
    """Make one module an island; its 16-bit tensors become fp32.

    An island that had such tensors stands among others that still do, and gets a border of their
    dtype where none is given.
    """
    known = vars(module).get("forward")
    release(module)
    halves = [t.dtype for t in (*module.parameters(), *module.buffers()) if t.dtype in HALVES]
    if border is None:
        border = known.border if isinstance(known, Island) else next(iter(halves), None)
    apply(module, lambda tensor: tensor.float() if tensor.dtype in HALVES else tensor)
    module.forward = Island(module, border, device_type)


def release(module: nn.Module) -> None:
    """Give a module its own forward back."""
    island = vars(module).get("forward")
    if isinstance(island, Island):
        del module.forward
        if island.was_set:
            module.forward = island.inside


def has_border(module: nn.Module) -> bool:
    """Whether a module is an island whose output is cast for those around it."""
    island = vars(module).get("forward")
    return isinstance(island, Island) and island.border is not None


def apply(module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """Change tensors in place.

    Private by name, but the one place that every cast of a module passes through: it keeps
    parameters the same objects, casts gradients with them, and is what modules override that keep
    a dtype of their own, or, like FSDP2's, must know of a cast.
    """
    module._apply(change)  # type: ignore[no-untyped-call]
