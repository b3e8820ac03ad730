"""The tensors that are alive, and who keeps them."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterable, Iterator
from types import FrameType, ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

DEPTH = 3
"""Chosen by us: a tensor in a list that is an attribute of an object is three steps from it."""


class Kind(NamedTuple):
    """What tensors are counted by."""

    shape: tuple[int, ...]
    dtype: str
    device: str
    has_graph: bool

    def __str__(self) -> str:
        graph = ", each with the graph it came from" if self.has_graph else ""
        return f"{self.shape} {self.dtype} on {self.device}{graph}"


class Grown(NamedTuple):
    """Tensors of a kind of which there are more than before.

    Attributes:
        kind: shape, type and place.
        number: how many more.
        bytes: how much more.
        kept_by: the type of what refers to one of them, and what that one is kept by in turn.
    """

    kind: Kind
    number: int
    bytes: int
    kept_by: str

    def __str__(self) -> str:
        return f"{self.number} more of {self.kind} ({self.bytes / 2**20:,.1f} MiB), {self.kept_by}"


Census = dict[Kind, int]


def alive() -> Iterator[Tensor]:
    """Every tensor that Python holds; what a graph alone holds, it does not see."""
    for thing in gc.get_objects():
        if issubclass(type(thing), Tensor):  # isinstance would wake lazy objects by their __class__
            yield thing


def census() -> Census:
    """How many there are of each kind. Takes tens of milliseconds: for rare moments."""
    return Counter(_kind(tensor) for tensor in alive() if _has_storage(tensor))


def grown(before: Census, most: int = 3) -> list[Grown]:
    """What has become more since a census: the largest, and the most numerous of a graph."""
    now = census()
    more = {kind: number - before.get(kind, 0) for kind, number in now.items()}
    rising = sorted(
        (kind for kind, number in more.items() if number > 0),
        key=lambda kind: -more[kind] * _bytes(kind),
    )
    # A loss that was kept weighs nothing, and what its graph holds Python does not see.
    graphs = sorted((kind for kind in rising if kind.has_graph), key=lambda kind: -more[kind])
    chosen = rising[:most] + [kind for kind in graphs[:1] if kind not in rising[:most]]
    found = []
    for kind in chosen:
        latest: Tensor | None = None
        for tensor in alive():
            if _has_storage(tensor) and _kind(tensor) == kind:
                latest = tensor
        kept_by = "kept by nobody that Python knows" if latest is None else keeper(latest)
        found.append(Grown(kind, more[kind], more[kind] * _bytes(kind), kept_by))
        del latest
    return found


def keeper(tensor: Tensor) -> str:
    """Who refers to a tensor: "in a list in attribute `kept` of Module"."""
    words: list[str] = []
    thing: Any = tensor
    seen = {id(words), id(tensor)}
    for _ in range(DEPTH):
        owner = _referrer(thing, seen)
        if owner is None:
            break
        seen.add(id(owner))
        holder = _holder_of(owner) if type(owner) is dict else owner
        name = _attribute(holder, thing)
        if name is not None:
            words.append(f"attribute `{name}` of {type(holder).__name__}")
            break
        keys = (
            [key for key, value in owner.items() if value is thing] if type(owner) is dict else []
        )
        under = f" under {str(keys[0])!r}" if keys else ""
        words.append(f"a {type(owner).__name__}{under}")
        thing = owner
    return "in " + " in ".join(words) if words else "kept by nobody that Python knows"


def copies(parameters: Iterable[Tensor]) -> int:
    """How many times the parameters are alive, themselves, gradients and states included.

    Of each shape among them, tensors with a memory of their own are counted; the scarcest shape
    decides, since a copy has all of them.
    """
    wanted: Counter[tuple[tuple[int, ...], int]] = Counter()
    for parameter in parameters:
        wanted[tuple(parameter.shape), parameter.element_size()] += 1
    storages: dict[tuple[tuple[int, ...], int], set[int]] = {key: set() for key in wanted}
    for tensor in alive():
        key = (tuple(tensor.shape), tensor.element_size()) if _has_storage(tensor) else None
        if key in storages:
            storages[key].add(tensor.untyped_storage().data_ptr())
            if (
                tensor.grad_fn is None and tensor.grad is not None
            ):  # made for Python only when asked
                storages[key].add(tensor.grad.untyped_storage().data_ptr())
    return min((len(storages[key]) // wanted[key] for key in wanted), default=0)


def _has_storage(tensor: Tensor) -> bool:
    return (
        tensor.layout is torch.strided
        and tensor.device.type != "meta"
        and type(tensor) in (Tensor, torch.nn.Parameter)
    )


def _kind(tensor: Tensor) -> Kind:
    return Kind(
        tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), str(tensor.device),
        tensor.grad_fn is not None,
    )  # fmt: skip


def _bytes(kind: Kind) -> int:
    size: int = getattr(torch, kind.dtype).itemsize
    for length in kind.shape:
        size *= length
    return size


def _referrer(thing: Any, seen: set[int]) -> Any:
    """Something that outlives this call and refers to a thing."""
    for owner in gc.get_referrers(thing):
        if id(owner) in seen or isinstance(owner, FrameType | ModuleType | type):
            continue
        if type(owner).__name__ in ("list_iterator", "generator", "cell"):
            continue
        return owner
    return None


def _attribute(holder: Any, thing: Any) -> str | None:
    """The name by which an object knows a thing."""
    own = getattr(holder, "__dict__", None)
    names = [name for name, value in own.items() if value is thing] if type(own) is dict else []
    return names[0] if names else None


def _holder_of(attributes: dict[Any, Any]) -> Any:
    """The object whose attributes a dictionary is."""
    for owner in gc.get_referrers(attributes):
        if getattr(owner, "__dict__", None) is attributes:
            return owner
    return None
