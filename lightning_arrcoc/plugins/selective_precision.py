"""Low precision for a whole module but the parts that need fp32."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import FSDPPrecision, Precision
from lightning.pytorch.strategies import (
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    Strategy,
)
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.distributed.fsdp import (
    FullyShardedDataParallel,
    MixedPrecision,
    MixedPrecisionPolicy,
)
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler
from torch.optim import LBFGS, Optimizer

from lightning_arrcoc.plugins.casting import HALVES, cast
from lightning_arrcoc.plugins.dtype_report import DtypeRow, dtype_rows, table
from lightning_arrcoc.plugins.fp32 import running
from lightning_arrcoc.plugins.island_patterns import find_islands
from lightning_arrcoc.plugins.island_sharding import (
    check_sharded_apart,
    is_sharded,
    islands_apart,
    shard_apart,
)
from lightning_arrcoc.plugins.islands import (
    check_apart,
    has_border,
    hold,
    lower,
    release,
)

DTYPES = {"bf16-mixed": torch.bfloat16, "bf16-true": torch.bfloat16, "16-mixed": torch.float16}


class SelectivePrecision(FSDPPrecision):
    """Changes a run's precision to 16 bit, and keeps chosen modules in fp32.

    ::

        Trainer(plugins=[SelectivePrecision("bf16-mixed", keep_fp32=["*.balancer", "*.texture"])])

    A kept module, an island, runs with autocast off, and 16-bit floats that it is given are raised
    to fp32. In ``bf16-true``, where the rest holds its weights in bf16, an island's parameters and
    buffers stay fp32 and what it returns is cast to bf16 at the border. With the frozen backbone
    outside and all that trains in `keep_fp32`, memory is that of a bf16 model and the weights that
    learn, their gradients and the optimizer's moments are fp32. For code that is no module there is
    `full_precision`. Nothing is logged but one table at the start; `dtype_report()` returns it.

    An island is what is *called*: a method other than `forward` called by name, or a weight used
    without its module, is as around it.

    ``bf16-true`` lowers the batch too, as Lightning does. Its islands keep their `forward` after
    the run, since without their border they would not fit the rest; in the mixed modes the module
    is left as it was.

    It is an `FSDPPrecision` because `FSDPStrategy` takes no other. Strategies: one device and DDP;
    `FSDPStrategy`, islands being wrapped apart; `ModelParallelStrategy` (FSDP2), where
    `configure_model` calls `shard_islands` and hands `fsdp2_policy` to `fully_shard`, not with
    ``16-mixed``. Under DeepSpeed it refuses.

    Args:
        precision: "bf16-mixed", "bf16-true" or "16-mixed", the last with a gradient scaler.
        keep_fp32: globs on names of modules or of their classes; see `find_islands`.
        scaler: for "16-mixed"; None makes the usual one.

    Raises:
        ValueError: another precision, or a scaler that it does not use.
        TypeError: `keep_fp32` is no list of words.
    """

    def __init__(
        self,
        precision: Literal["bf16-mixed", "bf16-true", "16-mixed"] = "bf16-mixed",
        keep_fp32: Sequence[str] = (),
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        # Not FSDPPrecision's own __init__: it makes a scaler that only CUDA has.
        if precision not in DTYPES:
            raise ValueError(
                f"precision={precision!r}; expected one of {', '.join(DTYPES)}. For others pass "
                "Trainer(precision=...) without this plugin."
            )
        is_list = isinstance(keep_fp32, Sequence) and not isinstance(keep_fp32, str)
        if not is_list or not all(isinstance(word, str) for word in keep_fp32):
            raise TypeError(f"keep_fp32={keep_fp32!r}; expected a list such as ['*.balancer'].")
        if scaler is not None and precision != "16-mixed":
            raise ValueError(f"{precision} needs no scaler; leave it out, or take '16-mixed'.")
        self.precision = precision
        self.keep_fp32 = list(keep_fp32)
        self.scaler: Any = scaler  # Lightning's annotation knows FSDP's only
        self.dtype = DTYPES[precision]
        self._device_type = "cpu"
        self._wrapped: nn.Module | None = None  # as the strategy made it
        self._islands: list[nn.Module] = []
        self._rows: list[DtypeRow] = []
        self._has_warned = False

    @property
    def is_true(self) -> bool:
        """Whether weights are lowered, not only what is computed with them."""
        return self.precision == "bf16-true"

    def dtype_report(self) -> list[DtypeRow]:
        """The table of the start: which part holds and computes in which dtype.

        Raises:
            RuntimeError: no Trainer has set the plugin up yet.
        """
        if not self._rows:
            raise RuntimeError("Nothing to report yet: a Trainer sets the plugin up as it starts.")
        return list(self._rows)

    # -------------------------------------------------------------------------------- the module

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Find the islands, cast the rest where weights are lowered, and say what came of it.

        Raises:
            MisconfigurationException: a pattern matches nothing, an island shares a weight with
                what is none or is not sharded apart, or the strategy cannot hold islands.
        """
        strategy = module.trainer.strategy if isinstance(module, LightningModule) else None
        self._refuse(strategy)
        if strategy is not None:
            self._device_type = strategy.root_device.type
        found = find_islands(module, self.keep_fp32)
        check_sharded_apart(module, found)
        if self.is_true:
            check_apart(found)
            lower(module, found, self.dtype)
        for island in found.islands.values():
            hold(island, self.dtype if self.is_true else None, self._device_type)
        if isinstance(strategy, FSDPStrategy) and not is_sharded(module):
            wrap = strategy.kwargs.get("auto_wrap_policy")
            strategy.kwargs["auto_wrap_policy"] = islands_apart(found, wrap)
        if self.precision == "16-mixed" and self.scaler is None:
            kind = ShardedGradScaler if isinstance(strategy, FSDPStrategy) else torch.amp.GradScaler
            self.scaler = kind(self._device_type)
        self._islands = list(found.islands.values())
        self._say(dtype_rows(found, self.dtype))
        running.plugins[id(self)] = self._device_type
        return module

    def connect(
        self, model: nn.Module, optimizers: list[Optimizer], lr_schedulers: list[Any]
    ) -> tuple[nn.Module, list[Optimizer], list[Any]]:
        self._wrapped = model
        return model, optimizers, lr_schedulers

    def teardown(self) -> None:
        """Give islands their own forward back, but those among others that stay lowered."""
        running.plugins.pop(id(self), None)
        for island in self._islands:
            if not has_border(island):
                release(island)
        self._islands, self._wrapped = [], None

    def module_init_context(self) -> AbstractContextManager[None]:
        """Modules are made as they say; what is lowered is lowered later, and islands never are."""
        return nullcontext()

    tensor_init_context = module_init_context

    def _refuse(self, strategy: Strategy | None) -> None:
        if isinstance(strategy, DeepSpeedStrategy):
            raise MisconfigurationException(
                "DeepSpeed casts all parameters itself, so SelectivePrecision cannot keep some in "
                "fp32. Leave the plugin out and set Trainer(precision='bf16-mixed'), which holds "
                "fp32 masters of all weights; or keep the plugin and set strategy='fsdp'."
            )
        if isinstance(strategy, ModelParallelStrategy) and self.precision == "16-mixed":
            raise MisconfigurationException(
                "ModelParallelStrategy has no gradient scaler for '16-mixed'. Set "
                "SelectivePrecision('bf16-mixed')."
            )

    def _say(self, rows: list[DtypeRow]) -> None:
        if rows != self._rows:  # not again for validation and test
            rank_zero_info(f"SelectivePrecision({self.precision!r}):\n{table(rows)}")
        self._rows = rows

    # -------------------------------------------------------------------------------- a step

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        """Autocast; where weights are lowered, new tensors are as well, as Lightning has it."""
        if not self.is_true:
            with torch.autocast(self._device_type, dtype=self.dtype, cache_enabled=False):
                yield
            return
        default = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(default)

    def convert_input(self, data: Any) -> Any:
        if not self.is_true:
            return data
        return cast(data, lambda t: t.to(self.dtype) if t.is_floating_point() else t)

    def convert_output(self, data: Any) -> Any:
        return data

    def pre_backward(self, tensor: Tensor, module: LightningModule) -> Tensor:  # type: ignore[override]
        if tensor.dtype in HALVES and not self._has_warned:
            self._has_warned = True
            rank_zero_warn(
                f"The loss is {tensor.dtype}, which has two or three digits. Compute it in fp32: "
                "`with full_precision():` around it, from lightning_arrcoc.plugins."
            )
        return super().pre_backward(tensor, module)

    def backward(  # type: ignore[override]
        self, tensor: Tensor, model: LightningModule, optimizer: Any, *args: Any, **kwargs: Any
    ) -> None:
        """With autocast off, which would lower an island's gradients.

        Manual optimization steps back within `training_step`, where it is on.
        """
        with torch.autocast(self._device_type, enabled=False):
            super().backward(tensor, model, optimizer, *args, **kwargs)

    def optimizer_step(  # type: ignore[override]
        self,
        optimizer: Any,
        model: LightningModule,
        closure: Callable[[], Any],
        **kwargs: Any,
    ) -> Any:
        """One step; with a scaler gradients are unscaled first, for fused optimizers too.

        Lightning leaves unscaling to fused optimizers, and so cannot clip for them. `GradScaler`
        does not mind: what it has unscaled it does not unscale again.
        """
        if self.scaler is None:
            return Precision.optimizer_step(self, optimizer, model, closure, **kwargs)
        if isinstance(optimizer, LBFGS):
            raise MisconfigurationException("LBFGS cannot be scaled; set precision='bf16-mixed'.")
        loss = closure()
        has_no_gradient = loss is None and model.automatic_optimization
        if not has_no_gradient:
            self.scaler.unscale_(optimizer)
        # Private, but what Lightning's own precisions call: hooks before the step, then clipping.
        self._after_closure(model, optimizer)
        if has_no_gradient:
            return loss
        stepped = self.scaler.step(optimizer, **kwargs)
        self.scaler.update()
        return stepped

    def clip_grad_by_norm(self, optimizer: Optimizer, clip_val: int | float) -> None:
        """By the norm over all ranks' shards; FSDP1 knows it only for the whole module."""
        if isinstance(self._wrapped, FullyShardedDataParallel):
            self._wrapped.clip_grad_norm_(clip_val)
        else:
            Precision.clip_grad_by_norm(self, optimizer, clip_val)

    # -------------------------------------------------------------------------------- sharding

    @property
    def mixed_precision_config(self) -> MixedPrecision:
        """What `FSDPStrategy` shards the rest with."""
        return MixedPrecision(
            param_dtype=self.dtype, reduce_dtype=self.dtype, buffer_dtype=self.dtype
        )

    @property
    def fsdp2_policy(self) -> MixedPrecisionPolicy:
        """For `fully_shard` of the rest: its dtype, gradients summed in fp32."""
        return MixedPrecisionPolicy(param_dtype=self.dtype, reduce_dtype=torch.float32)

    def shard_islands(self, module: nn.Module, **options: Any) -> None:
        """In `configure_model`, before anything else is sharded by FSDP2.

        ::

            def configure_model(self):
                precision, mesh = self.trainer.precision_plugin, self.device_mesh["data_parallel"]
                precision.shard_islands(self, mesh=mesh)
                fully_shard(self.net, mesh=mesh, mp_policy=precision.fsdp2_policy)

        Args:
            module: what `keep_fp32` is matched against.
            **options: of `fully_shard`.
        """
        shard_apart(find_islands(module, self.keep_fp32), **options)
