"""What follows on a step: for the optimizer before it, and for the run when it is known."""

from __future__ import annotations

import math
from functools import reduce
from operator import or_
from typing import Any, Literal, NamedTuple

import lightning.pytorch as pl
from torch.optim import Optimizer

from lightning_arrcoc.callbacks.gradients.ledger import Ledger, Reading
from lightning_arrcoc.callbacks.gradients.suspects import Beside
from lightning_arrcoc.callbacks.gradients.telling import (
    tell_episode,
    tell_nonfinite,
    tell_spike,
)
from lightning_arrcoc.callbacks.gradients.watched import Verdict
from lightning_arrcoc.callbacks.gradients.withholding import (
    Way,
    release,
    take_gradients,
    withhold_on_device,
)
from lightning_arrcoc.events import record

Policy = Literal["log", "skip", "stop"]


class Consequences(NamedTuple):
    """Settings of `GradientMonitor`, and what they mean."""

    policy: Policy
    spike_policy: Policy
    patience: int

    @property
    def act(self) -> bool:
        return self.policy != "log" or self.spike_policy != "log"

    def bad(self, verdict: Verdict, way: Way, scaled: bool) -> Any:
        """Whether this step is withheld, a flag where the verdict is."""
        # A GradScaler withholds by itself what is not finite.
        found = [verdict.nonfinite] if self.policy != "log" or scaled else []
        if self.spike_policy != "log" and way != "scaler":
            norm, loss = verdict.judged.spike
            found += [norm, loss]
        if not found:
            return verdict.nonfinite & False
        return reduce(or_, found)

    def withhold(self, optimizer: Optimizer, bad: Any, way: Way) -> None:
        """Keep the optimizer from a bad step."""
        release(optimizer)
        if self.act and way == "device":
            withhold_on_device(optimizer, bad)
        elif self.act and way == "host" and bool(bad):
            take_gradients(optimizer)

    def follow(
        self, trainer: pl.Trainer, ledger: Ledger, reading: Reading, beside: Beside, scaled: bool,
        clip_value: float | None,
    ) -> str:  # fmt: skip
        """Count a step in and tell of it; the reason to stop the run, if there is one."""
        step = beside.step
        episode = ledger.add(reading, clip_value)
        overflow = scaled and math.isfinite(reading.loss)
        if reading.nonfinite and ledger.nonfinite_in_a_row == 1 and not overflow:
            tell_nonfinite(
                trainer, step, beside.names, beside.finding or "", bool(reading.withheld)
            )
        if reading.is_spike:
            tell_spike(trainer, step, reading, aloud=ledger.spikes_in_a_row == 1)
        if reading.withheld:
            why = "not finite" if reading.nonfinite else "spike"
            record(trainer, "batch/skipped", at_step=step, reason=why)
        if episode:
            tell_episode(trainer, step, episode, reading)
        return self._reason_to_stop(ledger, reading, step, overflow)

    def _reason_to_stop(self, ledger: Ledger, reading: Reading, step: int, overflow: bool) -> str:
        if self.policy == "stop" and reading.nonfinite and not overflow:
            return f"step {step} is not finite."
        if self.spike_policy == "stop" and reading.is_spike:
            return f"step {step} is a spike."
        if self.act and ledger.skipped_in_a_row >= self.patience:
            return f"{ledger.skipped_in_a_row} steps in a row were skipped, up to step {step}."
        return ""
