"""A training step in smaller batches, inside Lightning's closure.

Lightning 2.6 makes a closure of three calls: training_step, zero_grad, backward. Gradients that are
gathered within training_step are wiped by the second, and while batches are accumulated the closure
is called without an optimizer's step around it. So the closure itself is what is replaced, by way
of the loop's `_make_closure`: a private name, held by the tests.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loops.optimization.automatic import Closure, ClosureResult
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from lightning_arrcoc.memory.splitting import Part


class Step:
    """One call of the closure, in its parts.

    Attributes:
        batch: the whole; None where training_step takes an iterator.
        parameters: those of the optimizer.
        accumulates: whether gradients of batches before are to stay.
        phase: forward or backward, whichever was begun last.
    """

    def __init__(
        self, whole: Closure, forward: Callable[[Any], ClosureResult], batch: Any,
        parameters: list[Tensor], trainer: pl.Trainer,
    ) -> None:  # fmt: skip
        self.batch, self.parameters = batch, parameters
        self.phase = "forward"
        self._whole, self._forward, self._trainer = whole, forward, trainer
        self.accumulates = whole._zero_grad_fn is None

    def run(self) -> ClosureResult:
        """The whole batch, just as Lightning does it."""
        self.phase = "forward"
        result: ClosureResult = self._whole._step_fn()
        self._zero_grad()
        if result.closure_loss is not None:
            self._backward(result.closure_loss)
        return result

    def run_in(self, parts: Sequence[Part]) -> ClosureResult:
        """Part by part; the gradients are those of the losses, each times its share, added up.

        Returns:
            The whole batch's loss; what else training_step gives, as it gave it for the last part.
        """
        total: Tensor | None = None
        extra: dict[str, Any] = {}
        results: Any = self._trainer._results
        try:
            for place, (part, share) in enumerate(parts):
                if results is not None:  # what training_step logs counts by the part's own length
                    results.batch, results.batch_size = part, None
                self.phase = "forward"
                result = self._forward(part)
                extra = result.extra
                if place == 0:
                    self._zero_grad()
                if result.closure_loss is not None:
                    loss = result.closure_loss * share
                    self._backward(loss)
                    total = loss.detach() if total is None else total + loss.detach()
        finally:
            if results is not None:
                results.batch, results.batch_size = self.batch, None
        return ClosureResult(total, extra=extra)

    def clear(self) -> None:
        """No gradient: what a backward that failed has left is of no use."""
        for parameter in self.parameters:
            parameter.grad = None

    def _zero_grad(self) -> None:
        if self._whole._zero_grad_fn is not None:
            self._whole._zero_grad_fn()

    def _backward(self, loss: Tensor) -> None:
        self.phase = "backward"
        if self._whole._backward_fn is not None:
            self._whole._backward_fn(loss)


class Aside:
    """Gradients of batches before, out of the way of one that may fail.

    Costs as much memory again as gradients take, when a backward ends.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._held = [(parameter, parameter.grad) for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None

    def put_back(self) -> None:
        """Add what came since."""
        for parameter, held in self._held:
            if held is not None:
                parameter.grad = held if parameter.grad is None else held.add_(parameter.grad)
        self._held = []


class _Guarded(Closure):
    def __init__(self, whole: Closure, run: Callable[[], ClosureResult]) -> None:
        super().__init__(whole._step_fn, whole._backward_fn, whole._zero_grad_fn)
        self._run = run

    @torch.enable_grad()
    def closure(self, *args: Any, **kwargs: Any) -> ClosureResult:
        return self._run()


def guard_closures(trainer: pl.Trainer, run: Callable[[Step], ClosureResult]) -> None:
    """Have every closure of automatic optimization run by `run`.

    Raises:
        MisconfigurationException: somebody does so already, or this Lightning makes no closures.
    """
    loop: Any = trainer.fit_loop.epoch_loop.automatic_optimization
    make = getattr(type(loop), "_make_closure", None)
    if make is None or "_make_closure" in vars(loop):
        raise MisconfigurationException(
            f"OOMGuard runs the closures of Lightning 2.6's automatic optimization; in Lightning "
            f"{pl.__version__} {'there are none' if make is None else 'another OOMGuard has them'}."
            " Leave it out."
        )

    def make_closure(
        kwargs: OrderedDict[str, Any], optimizer: torch.optim.Optimizer, batch_idx: int
    ) -> Closure:
        whole = make(loop, kwargs, optimizer, batch_idx)
        parameters = [one for group in optimizer.param_groups for one in group["params"]]

        def forward(part: Any) -> ClosureResult:
            result: ClosureResult = loop._training_step(OrderedDict(kwargs, batch=part))
            return result

        step = Step(whole, forward, kwargs.get("batch"), parameters, trainer)
        return _Guarded(whole, lambda: run(step))

    loop._make_closure = make_closure


def release_closures(trainer: pl.Trainer) -> None:
    """As Lightning makes them; harmless when repeated."""
    vars(trainer.fit_loop.epoch_loop.automatic_optimization).pop("_make_closure", None)
