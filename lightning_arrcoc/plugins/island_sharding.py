"""Islands under strategies that shard parameters: each in a group of its own."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.distributed.fsdp import (
    FSDPModule,
    FullyShardedDataParallel,
    MixedPrecision,
    MixedPrecisionPolicy,
    fully_shard,
)
from torch.distributed.fsdp.wrap import CustomPolicy, ModuleWrapPolicy
from torch.distributed.tensor import DTensor

from lightning_arrcoc.plugins.island_patterns import Found

FP32 = torch.float32
FSDP1_ISLAND = MixedPrecision(param_dtype=FP32, reduce_dtype=FP32, buffer_dtype=FP32)
FSDP2_ISLAND = MixedPrecisionPolicy(param_dtype=FP32, reduce_dtype=FP32)


def islands_apart(found: Found, wrap: Any) -> CustomPolicy:
    """An `auto_wrap_policy` for FSDP1 that wraps islands in fp32, and the rest as it was to be.

    Args:
        found: islands and others.
        wrap: the policy for the rest; None wraps nothing else.

    Raises:
        MisconfigurationException: it is of a kind that cannot be asked about a single module.
    """
    if wrap is not None and (not callable(wrap) or isinstance(wrap, CustomPolicy)):
        raise MisconfigurationException(
            f"SelectivePrecision cannot add its islands to an auto_wrap_policy of type "
            f"{type(wrap).__name__}. Pass FSDPStrategy(auto_wrap_policy={{Block, ...}}), a set of "
            "classes, or a function such as size_based_auto_wrap_policy."
        )
    islands = {id(module) for module in found.islands.values() if _sizes(module)}
    within = {id(part) for module in found.islands.values() for part in module.modules()}

    def decide(module: nn.Module) -> bool | dict[str, Any]:
        if id(module) in islands:
            return {"mixed_precision": FSDP1_ISLAND}
        if wrap is None or id(module) in within:
            return False
        if isinstance(wrap, ModuleWrapPolicy):
            return bool(wrap(module, recurse=False))
        return bool(wrap(module=module, recurse=False, nonwrapped_numel=sum(_sizes(module))))

    return CustomPolicy(decide)


def shard_apart(found: Found, **options: Any) -> None:
    """Shard each island by FSDP2 as a group of its own, in fp32.

    Args:
        found: islands and others.
        **options: of `fully_shard`, such as `mesh`.
    """
    for island in found.islands.values():
        if _sizes(island):
            fully_shard(island, **{"mp_policy": FSDP2_ISLAND, **options})


def is_sharded(root: nn.Module) -> bool:
    """Whether parts of a module were sharded by hand, as FSDP2 wants it and FSDP1 permits."""
    return any(
        isinstance(module, (FSDPModule, FullyShardedDataParallel)) for module in root.modules()
    )


def check_sharded_apart(root: nn.Module, found: Found) -> None:
    """Where parts were sharded by hand, islands must be parts of their own.

    Raises:
        MisconfigurationException: one is not.
    """
    if not is_sharded(root):
        return
    kind = FullyShardedDataParallel
    wrapped = {id(module.module) for module in root.modules() if isinstance(module, kind)}
    units = [module for module in root.modules() if isinstance(module, kind)]
    within = {id(part) for unit in units for part in unit.modules()}
    whole = {
        id(island)
        for island in found.islands.values()
        if id(island) not in within
        and not any(isinstance(parameter, DTensor) for parameter in island.parameters())
    }
    for name, island in found.islands.items():
        apart = isinstance(island, FSDPModule) or id(island) in wrapped or id(island) in whole
        if _sizes(island) and not apart:
            raise MisconfigurationException(
                f"{name!r} is kept in fp32, but is not sharded apart from what is not. In "
                "configure_model, before anything else is sharded, call "
                "`self.trainer.precision_plugin.shard_islands(self, mesh=...)`."
            )


def _sizes(module: nn.Module) -> list[int]:
    return [parameter.numel() for parameter in module.parameters()]
