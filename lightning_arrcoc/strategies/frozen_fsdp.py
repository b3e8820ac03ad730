"""A frozen model in parts on several devices, and DDP for what trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.nn.parallel import DistributedDataParallel

from lightning_arrcoc.strategies.shards import (
    Api,
    shard_fsdp1,
    shard_fsdp2,
    sharded_names,
    whole_tensors,
)

STEPS = ("training_step", "validation_step", "test_step", "predict_step")


class FrozenFSDPStrategy(DDPStrategy):
    """Changes where a frozen model lies: in parts on all devices, fetched block by block.

    What trains, be it beside the frozen blocks or adapters within them, is small: it stays whole on
    every device, and DDP averages its gradients. So optimizers, clipping, callbacks and checkpoints
    are those of a run under DDP, bit for bit, and a checkpoint of either can be resumed by the
    other. Parameters outside of the blocks (embeddings, heads) stay whole as well: they would be
    needed all the time.

    The module names its blocks by ``blocks_to_shard() -> list[Module]``, called once, before they
    are dealt out. All ranks must call the blocks alike in every step, for each call is a
    collective: a module that would leave some out for a batch of its own heeds `meets_in_forward`.

    Every process first holds the whole model in the CPU's memory, and its device one block more
    than its part. Nothing here needs a GPU: with gloo it runs on CPUs, slowly.

    Args:
        api: "fsdp2" for torch's `fully_shard`, which fetches the next block while one computes;
            "fsdp" for `FullyShardedDataParallel`, where a block is fetched when it is called.
        **kwargs: of `DDPStrategy`.

    Raises:
        ValueError: another `api`.

    Source: S. Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter
    Models", SC 2020, section 5.3 (stage 3). Departure: only what is frozen is dealt out, since the
    gradients and moments of the rest are small.
    """

    meets_in_forward = True

    def __init__(self, api: Api = "fsdp2", **kwargs: Any) -> None:
        if api not in ("fsdp", "fsdp2"):
            raise ValueError(f"api={api!r}; choose 'fsdp' or 'fsdp2'.")
        super().__init__(**kwargs)
        self.api = api

    def model_to_device(self) -> None:
        """Deal the blocks out, once, before the rest is moved: no device ever holds them all.

        Raises:
            MisconfigurationException: the module names no blocks, or all of them train.
        """
        module = self.lightning_module
        assert module is not None
        if not sharded_names(module):
            self._shard(module)
        super().model_to_device()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """What is whole on every device; the frozen blocks are in none of the checkpoints."""
        module = self.lightning_module
        assert module is not None
        return dict(whole_tensors(module))

    @torch.no_grad()
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Put in what is whole on every device; the frozen blocks stay as they are.

        Raises:
            KeyError: the names are others.
        """
        module = self.lightning_module
        assert module is not None
        own, weights = whole_tensors(module), checkpoint["state_dict"]
        if strict and own.keys() != weights.keys():
            other = ", ".join(sorted(own.keys() ^ weights.keys())[:3])
            raise KeyError(f"The checkpoint holds other tensors than the module: {other}.")
        for name in own.keys() & weights.keys():
            own[name].copy_(weights[name])

    def _shard(self, module: LightningModule) -> None:
        named = getattr(module, "blocks_to_shard", None)
        if named is None:
            raise MisconfigurationException(
                f"{type(self).__name__} deals out frozen blocks, but {type(module).__name__} names "
                "none. Give it blocks_to_shard() -> list[Module], or take strategy='ddp'."
            )
        blocks = named()
        if not any(not one.requires_grad for block in blocks for one in block.parameters()):
            raise MisconfigurationException(
                f"{type(self).__name__} deals out what is frozen, but all blocks of "
                f"{type(module).__name__} train. Take strategy='ddp' (trainer=ddp)."
            )
        if self.api == "fsdp2":
            shard_fsdp2(module, blocks, STEPS, self.root_device)
        else:
            shard_fsdp1(module, blocks, self.root_device)
        # Private by name, but what torch offers until there is another way, and what Lightning asks
        # too before it broadcasts a model.
        ignore: Any = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
        ignore(module, sharded_names(module))
