"""Gradients of all ranks, averaged once all of them are there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from lightning_arrcoc.memory.ranks import Ranks


class Reducing:
    """Lets a rank fail in its step without the others waiting for its gradients.

    DDP averages them within the backward, where a rank that has stopped leaves all others waiting.
    Here every rank first ends its step alone, then all tell each other how it went, and only then
    are gradients averaged. The price: that travel is no longer hidden behind the backward.
    """

    def __init__(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        strategy: Any = trainer.strategy
        alone = isinstance(strategy, SingleDeviceStrategy)
        plain = isinstance(strategy, DDPStrategy) and not strategy.handles_gradient_accumulation
        plain = plain and not getattr(strategy, "meets_in_forward", False)
        if not alone and not plain:
            raise MisconfigurationException(
                f"OOMGuard acts on a single device and under DDP; the strategy is a "
                f"{type(strategy).__name__}, whose forward waits for other ranks already. Choose "
                "policy='raise', or another strategy."
            )
        if any(isinstance(part, torch.nn.SyncBatchNorm) for part in pl_module.modules()):
            raise MisconfigurationException(
                "OOMGuard cannot act where ranks meet in the forward, but the model has a "
                "SyncBatchNorm. Choose policy='raise', or leave out sync_batchnorm."
            )
        if getattr(strategy, "_ddp_comm_hook", None) is not None:
            raise MisconfigurationException(
                "OOMGuard averages gradients itself; DDPStrategy(ddp_comm_hook=...) would not be "
                "called. Choose policy='raise', or leave out the hook."
            )
        self._strategy, self._ranks = strategy, Ranks()
        self._ranks.start()

    @property
    def alone(self) -> bool:
        return self._ranks.alone

    def held_back(self) -> AbstractContextManager[Any]:
        """In which DDP averages nothing."""
        return nullcontext() if self.alone else self._strategy.block_backward_sync()

    @property
    def is_due(self) -> bool:
        """Whether this step ends with the average of all ranks: the last of accumulated ones."""
        ddp = self._strategy.model
        return isinstance(ddp, DistributedDataParallel) and bool(ddp.require_backward_grad_sync)

    def agree(self, failed: bool, parameters: Sequence[Tensor]) -> tuple[int | None, list[bool]]:
        """A rank that failed, if any, and which parameters have a gradient on some rank."""
        mine = [float(failed), *(float(one.grad is not None) for one in parameters)]
        worst, *have = self._ranks.highest(mine)
        return worst.rank if worst.value else None, [bool(one.value) for one in have]

    def average(self, parameters: Sequence[Tensor], have: Sequence[bool]) -> None:
        """All ranks' gradients; one without has none to add."""
        wanted = [one for one, some_rank_has in zip(parameters, have, strict=True) if some_rank_has]
        for parameter in wanted:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in wanted if parameter.grad is not None]
        for work in [dist.all_reduce(gradient, async_op=True) for gradient in gradients]:
            work.wait()  # of its stream, where there is one
        if gradients:
            torch._foreach_div_(gradients, dist.get_world_size())
        ddp: Any = self._strategy.model
        if ddp.broadcast_buffers:  # DDP does so in its forward, when it is to average
            for buffer in ddp.module.buffers():
                dist.broadcast(buffer, 0)

    def stop(self) -> None:
        self._ranks.stop()
