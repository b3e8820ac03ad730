"""Stretches of a step that run in fp32, whatever the precision around them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from lightning_arrcoc.plugins.casting import raised

# What asks about a tensor, changes it in place or looks at a part of it is done to itself, not to a
# raised copy. Functions that end in "_" are left alone as well.
OF_ITSELF = (
    "__get__", "__set__", "__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__",
    "__ifloordiv__", "__imod__", "__ipow__", "backward", "grad", "detach", "register_hook",
    "register_post_accumulate_grad_hook", "retain_grad", "data_ptr", "storage", "untyped_storage",
    "element_size", "numpy", "__getitem__", "view", "view_as", "reshape", "flatten", "unflatten",
    "select", "narrow", "squeeze", "unsqueeze", "transpose", "swapaxes", "movedim", "permute",
    "t", "expand", "expand_as", "diagonal", "chunk", "split", "tensor_split", "unbind",
)  # fmt: skip


class Running:
    """What is going on in this process.

    Not a matter of the thread: a backward pass that recomputes does so in a thread of its own,
    while the one that stepped waits for it.

    Attributes:
        plugins: those that a Trainer has set up, with the type of device they compute on.
        depth: of fp32 stretches within each other.
    """

    def __init__(self) -> None:
        self.plugins: dict[int, str] = {}
        self.depth = 0


running = Running()


@contextmanager
def fp32_stretch(device_type: str) -> Iterator[bool]:
    """No autocast, and new tensors in fp32; whether this is the outermost stretch."""
    default = torch.get_default_dtype()
    is_lowered = default in (torch.bfloat16, torch.float16)
    running.depth += 1
    if is_lowered:
        torch.set_default_dtype(torch.float32)
    try:
        with torch.autocast(device_type, enabled=False):
            yield running.depth == 1
    finally:
        running.depth -= 1
        if is_lowered:
            torch.set_default_dtype(default)


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute in fp32 what is no module, such as a loss in `training_step`.

    ::

        with full_precision():
            loss = F.cross_entropy(self.head(features), labels)

    Without a running `SelectivePrecision` it changes nothing. With one, autocast is off inside, and
    16-bit tensors that a torch function computes with are raised first: `loss` is fp32 although
    `features` are not. Where one is written to or viewed it is not, so that ``x += 1`` and
    ``x[0] = 1`` change `x` itself, in its own dtype. torch.compile breaks its graph here.
    """
    if not running.plugins:
        yield
        return
    device_type = next(reversed(running.plugins.values()))
    with fp32_stretch(device_type), RaisingInputs():
        yield


class RaisingInputs(TorchFunctionMode):
    """Raises the 16-bit tensors that torch functions are given to compute with."""

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # which cannot read names
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if not _is_done_to_itself(func, kwargs):
            args, kwargs = raised(args), raised(kwargs)
        return func(*args, **kwargs)


def _is_done_to_itself(func: Callable[..., Any], kwargs: Mapping[str, Any]) -> bool:
    name = getattr(func, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__")
    told = kwargs.get("out") is not None or kwargs.get("inplace")
    return bool(in_place or told or name in OF_ITSELF)
