"""Frozen blocks in parts on several devices; what trains stays whole on each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FullyShardedDataParallel,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

FSDP1 = "_fsdp_wrapped_module."  # what it puts before names within a block
Api = Literal["fsdp", "fsdp2"]


def shard_fsdp2(
    root: nn.Module, blocks: Sequence[nn.Module], steps: Sequence[str], device: torch.device
) -> None:
    """Deal the frozen weights of each block out to all processes, with torch's `fully_shard`.

    Args:
        root: holds the blocks. All of them must be called within its `forward` or one of `steps`:
            FSDP2 takes whatever is called first for the root, and refuses another one later.
        blocks: called by their `forward` alone, in any order.
        steps: methods of `root`, beside `forward`, that begin a step.
        device: where the parts are to lie.
    """
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for block in blocks:
        fully_shard(block, mesh=mesh, ignored_params=_trained(block))
    whole = {one for one in root.parameters() if not isinstance(one, DTensor)}
    fully_shard(root, mesh=mesh, ignored_params=whole)
    for step in steps:
        register_fsdp_forward_method(root, step)


def shard_fsdp1(root: nn.Module, blocks: Sequence[nn.Module], device: torch.device) -> None:
    """The same with `FullyShardedDataParallel`, each block being a root of its own.

    A block is replaced by its wrapper, which adds to the names of what trains within it. Its frozen
    weights are one flat piece that no other process has.
    """
    dealt_out = {id(block) for block in blocks}
    for name, part in list(root.named_modules()):
        if id(part) not in dealt_out:
            continue
        wrapped = FullyShardedDataParallel(
            part, device_id=device, ignored_states=list(_trained(part)), use_orig_params=False
        )
        owner, _, leaf = name.rpartition(".")
        root.get_submodule(owner).register_module(leaf, wrapped)


def whole_tensors(root: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers that a checkpoint holds and every process has, by their own names.

    Themselves, not copies, and asked without a state dict, for which FSDP1 gathers everything.
    """
    parts = set(sharded_names(root))
    passing = {
        f"{where}.{name}" if where else name
        for where, part in root.named_modules()
        for name in part._non_persistent_buffers_set
    }
    found = [*root.named_parameters(), *root.named_buffers()]
    return {name.replace(FSDP1, ""): value for name, value in found if name not in parts | passing}


def sharded_names(root: nn.Module) -> list[str]:
    """Names of the parameters that lie in parts."""
    flat = {
        id(parameter)
        for unit in FullyShardedDataParallel.fsdp_modules(root)
        for parameter in unit.parameters()
        if not parameter.requires_grad
    }
    return [
        name
        for name, parameter in root.named_parameters()
        if isinstance(parameter, DTensor) or id(parameter) in flat
    ]


def _trained(block: nn.Module) -> set[nn.Parameter]:
    return {parameter for parameter in block.parameters() if parameter.requires_grad}
