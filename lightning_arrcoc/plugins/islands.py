"""Modules that compute in fp32 amid others of lower precision."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import update_wrapper
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_arrcoc.plugins.casting import HALVES, lowered, raised, tensors
from lightning_arrcoc.plugins.fp32 import fp32_stretch

# Modules put around another, and the name they hold it by: torch.compile, FSDP1, checkpointing of
# activations. None of these is public; they are part of the names in a state_dict.
AROUND = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


class Found(NamedTuple):
    """What patterns divide a module into.

    Attributes:
        islands: name -> module, the outermost that match.
        others: name -> module, all that lie in no island, the root ("") first.
    """

    islands: dict[str, nn.Module]
    others: dict[str, nn.Module]

    @property
    def tensors(self) -> Iterator[Tensor]:
        """Parameters and buffers of the islands."""
        for island in self.islands.values():
            yield from island.parameters()
            yield from island.buffers()


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


def find_islands(root: nn.Module, patterns: Sequence[str]) -> Found:
    """Divide a module by patterns.

    A pattern is a glob on a module's name, as in ``named_modules()`` of the root but without what
    torch.compile, FSDP and checkpointing put around, or on the name of its class or of one that
    this derives from. ``*.texture`` matches `texture` right below the root as well. What has no
    `forward` of its own, such as a ModuleList, stands for its children.

    Raises:
        MisconfigurationException: a pattern matches nothing.
    """
    root = without_wrapping(root)
    everything = {name: module for name, module in _walk(root) if name}
    for pattern in patterns:
        if not any(_matches(pattern, *each) for each in everything.items()):
            raise MisconfigurationException(_unmatched(pattern, everything))

    def is_island(name: str, module: nn.Module) -> bool:
        return any(_matches(pattern, name, module) for pattern in patterns)

    return _divide(root, is_island)


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


# -------------------------------------------------------------------------------------- names


def _divide(root: nn.Module, is_island: Callable[[str, nn.Module], bool]) -> Found:
    found = Found({}, {"": root})

    def visit(name: str, module: nn.Module, matched: bool) -> None:
        matched = matched or (bool(name) and is_island(name, module))
        if matched and _has_forward(module):
            found.islands[name] = module
            return
        found.others[name] = module
        for child_name, child in children(name, module):
            visit(child_name, child, matched)

    visit("", root, False)
    return found


def _walk(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    yield name, module
    for child_name, child in children(name, module):
        yield from _walk(child, child_name)


def children(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """What lies right below, by full name; a module in two places is there twice."""
    for own, child in module._modules.items():  # namedchildren() leaves out what it gave before
        if child is not None:
            yield f"{name}.{own}".lstrip("."), without_wrapping(child)


def without_wrapping(module: nn.Module) -> nn.Module:
    """The module that others were put around."""
    inner = next((module._modules[name] for name in AROUND if name in module._modules), None)
    return module if inner is None else without_wrapping(inner)


def _has_forward(module: nn.Module) -> bool:
    return type(module).forward is not nn.Module.forward or "forward" in vars(module)


def _class_names(module: nn.Module) -> list[str]:
    between = type(module).__mro__[: -len(nn.Module.__mro__)]
    return [kind.__name__ for kind in between]


def _matches(pattern: str, name: str, module: nn.Module) -> bool:
    words = (name, f".{name}", *_class_names(module))
    return any(fnmatchcase(word, pattern) for word in words)


def _unmatched(pattern: str, everything: dict[str, nn.Module]) -> str:
    names = list(everything)
    classes = [name for module in everything.values() for name in _class_names(module)]
    near = _nearest(pattern, [*names, *classes])
    return (
        f"keep_fp32 has {pattern!r}, which matches no module. Nearest: {', '.join(near)}. A "
        "pattern is a glob on names ('*.balancer') or classes ('*LayerNorm')."
    )


def _nearest(pattern: str, words: Iterable[str]) -> list[str]:
    """Names like the pattern; each name is also known by its last part."""
    meant = pattern.strip("*.?").casefold()
    by_part: dict[str, str] = {}
    for word in words:
        for known in (word, word.rpartition(".")[2]):
            by_part.setdefault(known.casefold(), word)
    near = difflib.get_close_matches(meant, by_part, n=3, cutoff=0.4)
    return [repr(by_part[part]) for part in near] or [repr(word) for word in list(words)[:3]]
