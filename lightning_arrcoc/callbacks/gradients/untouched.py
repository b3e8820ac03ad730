"""A run of a module that leaves it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_OWN = frozenset(vars(nn.Module()))  # parameters, submodules, hooks: a forward leaves them alone


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Buffers, and what else the parts of a module hold, are afterwards what they were before.

    That is running statistics, metrics, counters and lists of the module's own; not what it reaches
    elsewhere.
    """
    kept = [(part, _remember(part)) for part in module.modules()]
    try:
        yield
    finally:
        for part, memory in kept:
            _restore(part, *memory)


def _remember(part: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    buffers = {name: (value, _copy(value)) for name, value in part._buffers.items()}
    others = {name: (value, _copy(value)) for name, value in vars(part).items() if name not in _OWN}
    return buffers, others


def _restore(part: nn.Module, buffers: dict[str, Any], others: dict[str, Any]) -> None:
    held = vars(part)
    for name in held.keys() - others.keys() - _OWN:
        del held[name]
    for into, memory in ((part._buffers, buffers), (held, others)):
        for name, (value, copy) in memory.items():
            _put_back(value, copy)
            into[name] = value


def _copy(value: Any) -> Any:
    """Of what can change in place its content."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    return value.copy() if type(value) in (list, dict, set) else None


@torch.no_grad()
def _put_back(value: Any, copy: Any) -> None:
    if isinstance(value, Tensor):
        value.copy_(copy)
    elif type(value) is list:
        value[:] = copy
    elif type(value) in (dict, set):
        value.clear()
        value.update(copy)
