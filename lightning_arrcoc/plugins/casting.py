"""Tensors of nested containers, changed in dtype."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

HALVES = (torch.bfloat16, torch.float16)


def raised(tree: Any) -> Any:
    """The same with 16-bit floats in fp32."""
    return cast(tree, lambda tensor: tensor.float() if tensor.dtype in HALVES else tensor)


def lowered(tree: Any, dtype: torch.dtype) -> Any:
    """The same with fp32 in a lower dtype."""
    return cast(tree, lambda tensor: tensor.to(dtype) if tensor.dtype is torch.float32 else tensor)


def cast(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Change every tensor of nested containers.

    Containers are tuples, named ones too, lists, mappings and dataclasses, which covers the
    outputs of transformers. One in which nothing changes stays the very same object, so that code
    that fills a list or a cache that it was handed goes on filling it. Others come out as copies.
    """
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, (tuple, list)):
        items = [cast(item, change) for item in tree]
        if all(new is old for new, old in zip(items, tree, strict=True)):
            return tree
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    parts = _parts(tree)
    changed = {name: cast(part, change) for name, part in parts.items()}
    changed = {name: part for name, part in changed.items() if part is not parts[name]}
    if not changed:
        return tree
    if type(tree) is dict:
        return {**tree, **changed}
    made = copy(tree)
    for name, part in changed.items():
        if isinstance(made, Mapping):
            made[name] = part  # type: ignore[index]  # one that holds tensors can be written to
        else:
            object.__setattr__(made, name, part)  # frozen dataclasses too
    return made


def tensors(tree: Any) -> Iterator[Tensor]:
    """Every tensor of nested containers."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    cast(tree, note)
    return iter(found)


def _parts(tree: Any) -> dict[Any, Any]:
    if isinstance(tree, Mapping):
        return dict(tree)
    if is_dataclass(tree) and not isinstance(tree, type):
        return {field.name: getattr(tree, field.name) for field in fields(tree)}
    return {}
