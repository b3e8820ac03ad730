"""Which module's output was the first that is not finite."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn

from lightning_arrcoc.callbacks.gradients.untouched import untouched

NOT_FOUND = (
    "Every module's output is finite when the batch is run once more, and so is the loss: it "
    "arises in the backward pass (a square root at 0, a norm of 0, an overflow)."
)


class _FirstNonfinite:
    """A forward hook for all modules, which remembers the first output that is not finite."""

    def __init__(self, module: nn.Module) -> None:
        self.names = {part: name for name, part in module.named_modules() if name}
        self.found = ""

    def __call__(self, part: nn.Module, inputs: Any, output: Any) -> None:
        if self.found or is_finite(output):
            return
        self.found = f"The first output that is not finite is that of {_clean(self.names[part])!r} "
        self.found += f"({type(part).__name__})"
        if not is_finite([*part.parameters(recurse=False)]):
            self.found += ", whose own weights are not finite"
        elif not is_finite(inputs):
            self.found += ", which was handed it: what lies between modules made it"
        self.found += "."


@torch.no_grad()
def find_first_nonfinite(
    trainer: pl.Trainer, module: pl.LightningModule, batches: Sequence[tuple[Any, int]]
) -> str:
    """Run a step's batches forward once more and say where it begins.

    Nothing of it stays: random numbers, buffers, metrics and logs are as they were. Compiled
    modules run uncompiled meanwhile, or hooks were not seen. The module's own `training_step` is
    called without DDP around it; what that does among processes, all of them have to do alike.
    """
    for batch, index in batches:
        if not is_finite(batch):
            return f"Batch {index} itself is not finite."
        watch = _FirstNonfinite(module)
        with ExitStack() as undo:
            undo.enter_context(isolate_rng())
            undo.enter_context(untouched(module))
            if "torch._dynamo" in sys.modules:  # importing it takes seconds
                undo.enter_context(torch.compiler.set_stance("force_eager"))
            undo.enter_context(trainer.precision_plugin.train_step_context())
            for part in watch.names:
                undo.callback(part.register_forward_hook(watch).remove)
            for part in module.modules():
                if isinstance(part, pl.LightningModule):
                    vars(part).update(log=_say_nothing, log_dict=_say_nothing)
            try:
                loss = module.training_step(*_arguments(module, batch, index))
            except Exception as error:
                return f"Batch {index} could not be run once more: {error}"
        if watch.found:
            return watch.found
        if not is_finite(loss):
            return "Every module's output is finite, the loss made of them is not."
    return NOT_FOUND


def is_finite(value: Any) -> bool:
    """Whether all numbers in nested containers are; waits for the device."""
    return all(bool(tensor.isfinite().all()) for tensor in _tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point() or value.is_complex():
            yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from _tensors(vars(value))


def _arguments(module: pl.LightningModule, batch: Any, index: int) -> list[Any]:
    takes_index = is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)
    return [batch, index] if takes_index else [batch]


def _clean(name: str) -> str:
    return name.replace("_orig_mod.", "").removesuffix("._orig_mod")


def _say_nothing(*_: Any, **__: Any) -> None:
    """In place of logging."""
