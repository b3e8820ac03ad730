"""One optimizer's gradients, judged before every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from lightning_arrcoc.callbacks.gradients.engine_norms import EngineNorms
from lightning_arrcoc.callbacks.gradients.ledger import Ledger, Reading
from lightning_arrcoc.callbacks.gradients.norms import GradientNorms, Measured
from lightning_arrcoc.callbacks.gradients.readback import Readback
from lightning_arrcoc.callbacks.gradients.spikes import Judged, SpikeWindow
from lightning_arrcoc.callbacks.gradients.updates import UpdateMeasure


class Verdict(NamedTuple):
    """What is on the device of a step that is about to happen."""

    measured: Measured
    loss: Tensor
    nonfinite: Tensor
    judged: Judged

    @property
    def is_spike(self) -> Tensor:
        return self.judged.spike.any()


class Watched:
    """Measures, judges and remembers; acting is left to the callback.

    Args:
        optimizer: whose gradients.
        norms: what measures them.
        window: steps that a spike is compared with.
        sigma: as for `SpikeWindow`.
        warmup: as for `SpikeWindow`.
        agree_on_loss: whether ranks share their losses, by a collective where norms need none.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        norms: GradientNorms | EngineNorms,
        window: int,
        sigma: float,
        warmup: int,
        agree_on_loss: bool,
    ) -> None:
        self.optimizer, self.norms = optimizer, norms
        self.agree_on_loss = agree_on_loss or norms.copies is not None
        self.window = SpikeWindow(2, window, sigma, warmup)
        self.ledger = Ledger(window, warmup)
        self.readback = Readback()
        self.update = UpdateMeasure()
        self.last_update: Tensor | None = None

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
        total = measured.total
        if gradient_scale is not None:
            inverse = gradient_scale.to(total).reciprocal()
            total = total * inverse
            measured = measured._replace(total=total, groups=measured.groups * inverse)
        shared = (
            measured.extra[0] if self.norms.copies is not None else self._agreed(measured.extra[0])
        )
        if scale is not None:
            shared = shared / scale.to(shared)
        nonfinite = ~total.isfinite()
        if loss is not None and (self.agree_on_loss or not _several()):
            nonfinite = nonfinite | ~shared.isfinite()
        judged = self.window.judge(torch.stack([total, shared]))
        return Verdict(measured, shared, nonfinite, judged)

    def reading(self, verdict: Verdict, withheld: Tensor, clip_value: float | None) -> Tensor:
        """Everything that is to be known on the host: `Reading`, and the groups' norms."""
        measured, judged = verdict.measured, verdict.judged
        total = measured.total
        clipped = total > clip_value if clip_value else torch.zeros_like(total)
        flags = [verdict.nonfinite, *judged.spike.unbind(), withheld, clipped]
        head = [total, verdict.loss, judged.median[0], *judged.limit.unbind(), *flags]
        return torch.cat(
            [torch.stack([part.to(total) for part in head]), measured.extra[1:], measured.groups]
        )

    def read(self, numbers: Sequence[float]) -> tuple[Reading, dict[str, float]]:
        """What `reading` sent, and norms by group."""
        count = len(Reading._fields)
        return Reading(*numbers[:count]), dict(
            zip(self.norms.group_names, numbers[count:], strict=True)
        )

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
        device, wide = self.norms.device, self.norms.wide
        parts = torch.full((1,), torch.nan, dtype=wide, device=device)
        if loss is not None:
            parts = loss.to(parts).reshape(1)
        if self.norms.copies is not None:
            parts = parts / dist.get_world_size()
        last, self.last_update = self.last_update, None
        if last is None:
            last = parts.new_full((2,), torch.nan)
        return torch.cat([parts, last])

    def _agreed(self, loss: Tensor) -> Tensor:
        """The mean of all ranks, where acting on it needs them to agree."""
        if not (self.agree_on_loss and _several()):
            return loss
        shared = loss.clone()
        dist.all_reduce(shared)
        return shared / dist.get_world_size()


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
