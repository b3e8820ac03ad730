"""How the gradients of a run are spread over its processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch.distributed as dist
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
)
from torch import Tensor

# A parameter -> how many processes hold the same numbers of its gradient.
Copies = Callable[[Any], float]


def local(tensor: Any) -> Tensor:
    """The part of a gradient that this process holds; of a sparse one the rows that are there.

    To be asked where gradients are not recorded.
    """
    if hasattr(tensor, "to_local"):
        tensor = tensor.to_local()
    found: Tensor = tensor.coalesce().values() if tensor.is_sparse else tensor
    return found


def copies_of(trainer: pl.Trainer) -> Copies | None:
    """None where every process has all gradients and they agree.

    Raises:
        ValueError: the total cannot be told under this strategy; the message says why.
    """
    strategy = trainer.strategy
    if isinstance(strategy, DeepSpeedStrategy):
        raise ValueError("DeepSpeed keeps gradients to itself")
    if isinstance(strategy, ModelParallelStrategy):
        return copies_of_dtensor
    if isinstance(strategy, FSDPStrategy):
        return copies_under_fsdp(strategy.model)
    if type(strategy).__name__ == "SingleDeviceXLAStrategy":
        raise ValueError("XLA would have to end its graph to be asked")
    if isinstance(strategy, DDPStrategy | SingleDeviceStrategy):
        return None
    raise ValueError(f"how {type(strategy).__name__} spreads gradients is not known")


def copies_of_dtensor(parameter: Any) -> float:
    """Of FSDP2's and tensor parallel parameters; one that is no DTensor is on every process.

    Parameters of a smaller mesh are taken as repeated outside of it, as `ModelParallelStrategy`
    lays them.

    Raises:
        ValueError: the parameter is a sum that nobody has formed yet.
    """
    shards = 1
    for dimension, placement in enumerate(getattr(parameter, "placements", ())):
        if placement.is_partial():
            raise ValueError("a partial DTensor among the parameters")
        if not placement.is_replicate():
            shards *= parameter.device_mesh.size(dimension)
    return dist.get_world_size() / shards


def copies_under_fsdp(model: Any) -> Copies:
    """Of FSDP1's flat parameters and the views of them that optimizers see.

    Raises:
        ValueError: its modules are not all sharded in the same way.
    """
    from torch.distributed.fsdp import FullyShardedDataParallel as Fsdp
    from torch.distributed.fsdp import ShardingStrategy

    found = set()
    for module in Fsdp.fsdp_modules(model):
        whole = module.sharding_strategy == ShardingStrategy.NO_SHARD
        found.add(1 if whole else dist.get_world_size(module.process_group))
    if len(found) != 1:
        raise ValueError("FSDP shards some modules in another way than others")
    copies = dist.get_world_size() / found.pop()
    return lambda parameter: copies
