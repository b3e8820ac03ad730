"""One optimizer's gradients, judged before every step."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from lightning_arrcoc.callbacks.gradients.ledger import Ledger, Reading
from lightning_arrcoc.callbacks.gradients.norms import Measured
from lightning_arrcoc.callbacks.gradients.readback import Readback
from lightning_arrcoc.callbacks.gradients.spikes import Judged, SpikeWindow
from lightning_arrcoc.callbacks.gradients.updates import UpdateMeasure


class Verdict(NamedTuple):
    """What is known of a step that is about to happen: on the device, or in plain numbers.

    Attributes:
        measured: norms.
        curves: norm and loss.
        nonfinite: whether any of them is not.
        judged: whether one is a spike.
    """

    measured: Measured
    curves: Any
    nonfinite: Any
    judged: Judged


class Watched:
    """Measures, judges and remembers; acting is left to the callback.

    Args:
        optimizer: whose gradients.
        norms: `GradientNorms` or `EngineNorms`.
        window: steps that a spike is compared with.
        sigma: as for `SpikeWindow`.
        warmup: as for `SpikeWindow`.
        agree_on_loss: whether ranks share their losses, by a collective where norms need none.
    """

    window_class: type[Any] = SpikeWindow

    def __init__(
        self,
        optimizer: Optimizer,
        norms: Any,
        window: int,
        sigma: float,
        warmup: int,
        agree_on_loss: bool,
    ) -> None:
        self.optimizer, self.norms = optimizer, norms
        self.agree_on_loss = agree_on_loss or norms.copies is not None
        self.window = self.window_class(2, window, sigma, warmup)
        self.ledger = Ledger(window, warmup)
        self.readback = Readback()
        self.update = UpdateMeasure()
        self.last_update: Tensor | None = None
        self._nothing = torch.full((2,), torch.nan, dtype=norms.wide, device=norms.device)

    @torch.no_grad()
    def judge(
        self, loss: Tensor | None, scale: Tensor | None, gradient_scale: Tensor | None
    ) -> Verdict | None:
        """None where there are no gradients.

        Args:
            loss: of this step on this rank, None where it is not judged.
            scale: a GradScaler's, which the loss carries.
            gradient_scale: that which the gradients carry still.
        """
        measured = self.norms.measure(self._beside(loss))
        if measured is None:
            return None
        shared = measured.extra[:1]
        if self.agree_on_loss and self.norms.copies is None and several():
            shared = shared / dist.get_world_size()
            dist.all_reduce(shared)
        if scale is not None:
            shared = shared / scale.to(shared)
        total = measured.total.reshape(1)
        if gradient_scale is not None:
            inverse = gradient_scale.to(total).reciprocal()
            total = total * inverse
            measured = measured._replace(groups=measured.groups * inverse)
        curves = torch.cat([total, shared])
        # A loss that ranks do not share is left to spikes, which then only log.
        counts = loss is not None and (self.agree_on_loss or not several())
        nonfinite = (curves if counts else total).isfinite().all().logical_not_()
        return Verdict(measured, curves, nonfinite, self.window.judge(curves))

    def reading(self, verdict: Verdict, withheld: Any) -> Any:
        """Everything that is to be known on the host: `Reading`, and the groups' norms."""
        measured, judged = verdict.measured, verdict.judged
        flags = [verdict.nonfinite.reshape(1), judged.spike, withheld.reshape(1)]
        last = measured.extra[1:]
        return torch.cat(
            [verdict.curves, judged.median, judged.limit, *flags, last, measured.groups]
        )

    def read(self, numbers: list[float]) -> tuple[Reading, list[float]]:
        """What `reading` sent, and norms by group."""
        count = len(Reading._fields)
        return Reading(*numbers[:count]), numbers[count:]

    def end_update(self) -> None:
        """After a step: how far it went, if that was asked."""
        moved = self.update.end(self.norms.device, self.norms.copies)
        self.last_update = moved if moved is not None else self.last_update

    def state_dict(self) -> dict[str, Any]:
        return {
            "window": self.window.state_dict(),
            "ledger": self.ledger.state_dict(),
            "under_way": self.readback.state_dict(),
            "last_update": None if self.last_update is None else self.last_update.cpu().clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.window.load_state_dict(state["window"])
        self.ledger.load_state_dict(state["ledger"])
        under_way = state["under_way"]
        expected = len(Reading._fields) + len(self.norms.group_names)
        if under_way is not None and len(under_way) == expected:
            self.readback.load_state_dict(under_way)
        if state["last_update"] is not None:
            self.last_update = state["last_update"].to(self.norms.device)

    def _beside(self, loss: Tensor | None) -> Tensor:
        """Loss and last update, as a part of a sum over processes where norms are one."""
        last, self.last_update = self.last_update, None
        if loss is None:
            part = self._nothing[:1]
        else:
            part = loss.to(self._nothing).reshape(1)
            if self.norms.copies is not None:
                part = part / dist.get_world_size()
        return torch.cat([part, self._nothing if last is None else last])


def several() -> bool:
    """Whether there are other processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
