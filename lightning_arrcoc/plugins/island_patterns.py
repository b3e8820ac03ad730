"""Which modules are meant by globs on names and classes."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

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
