"""Where weights are put: parts of a model that hold none outside of a swap."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_arrcoc.compare.blueprint import Builder
from lightning_arrcoc.compare.errors import SwapError
from lightning_arrcoc.relevance import RelevanceRealizer

MOST_NAMED = 3  # Chosen by us: of many names that do not fit the first few tell what is wrong


class Room:
    """Parameters and buffers of a module by the names that a checkpoint has for them.

    Args:
        root: the module.
        members: some of its parameters and buffers, by their names in it.
        start: what a checkpoint puts before these names.
    """

    def __init__(self, root: nn.Module, members: Mapping[str, Tensor], start: str) -> None:
        self.empty: dict[str, Tensor] = {}
        self._places: dict[str, tuple[nn.Module, str]] = {}
        for name, member in members.items():
            parent, _, leaf = name.rpartition(".")
            nothing = member.detach().to("meta")
            if isinstance(member, nn.Parameter):
                nothing = nn.Parameter(nothing, requires_grad=False)
            self.empty[f"{start}{name}"] = nothing
            self._places[f"{start}{name}"] = (root.get_submodule(parent), leaf)

    def fill(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        """Put copies here, in the types that there were; all names must be among them."""
        for name, (owner, leaf) in self._places.items():
            nothing = self.empty[name]
            value = tensors[name].to(device, nothing.dtype, copy=True)
            is_parameter = isinstance(nothing, nn.Parameter)
            setattr(
                owner, leaf, nn.Parameter(value, requires_grad=False) if is_parameter else value
            )

    def clear(self) -> None:
        """Let them go."""
        for name, (owner, leaf) in self._places.items():
            setattr(owner, leaf, self.empty[name])


def network_without_weights(
    name: str, build: Builder, query_dim: int, start: str
) -> tuple[RelevanceRealizer, Room]:
    """A small network that takes no memory yet, and where its weights go.

    Raises:
        SwapError: it cannot be built, or has buffers that no checkpoint holds.
    """
    try:
        with torch.device("meta"):
            network = build(query_dim).eval().requires_grad_(False)
    except ValueError as error:
        raise SwapError(f"The network of {name!r} cannot be built: {error}") from error
    persistent = network.state_dict().keys()
    members = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    left = sorted(members.keys() - persistent)
    if left:
        raise SwapError(
            f"The network of {name!r} has buffers that no checkpoint holds ({first_of(left)}). "
            "Make them persistent, or compute them when they are needed."
        )
    return network, Room(network, members, start)


def refuse_partial(name: str, given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """A swap that matches no name, or only some, would be a model that nobody trained.

    Raises:
        SwapError: a name is missing, unknown or of another shape.
    """
    missing = sorted(expected.keys() - given.keys())
    unknown = sorted(given.keys() - expected.keys())
    misshapen = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in sorted(expected.keys() & given.keys())
        if given[key].shape != expected[key].shape
    ]
    if not (missing or unknown or misshapen):
        return
    fitting = len(expected) - len(missing) - len(misshapen)
    kinds = (("missing", missing), ("unknown here", unknown), ("of another shape", misshapen))
    wrong = "; ".join(f"{kind}: {first_of(names)}" for kind, names in kinds if names)
    raise SwapError(
        f"Of the {len(expected)} weights that {name!r} should bring {fitting or 'none'} fit "
        f"({wrong}). Nothing was changed. Register it with arr_coc=, what builds the network it "
        "was trained with."
    )


def first_of(names: list[str]) -> str:
    """A few names, and how many more there are."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
