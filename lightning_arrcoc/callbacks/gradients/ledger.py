"""What is known of the steps so far: counts, episodes, and what is to be said about them."""

from __future__ import annotations

from collections import deque
from typing import Any, Literal, NamedTuple

# Chosen by us: a factor that neither noise nor a schedule explains.
EXPLODING = 100.0
VANISHING = 1 / EXPLODING
ADVICE = {
    "exploding": (
        "Lower the learning rate or let it warm up longer, set Trainer(gradient_clip_val=1.0), and "
        "look at the batch of that step."
    ),
    "vanishing": (
        "Look for a saturated activation, a loss that is constant or masked away, a part that was "
        "frozen or detached, and under fp16 for a missing loss scale."
    ),
}
Episode = Literal["", "exploding", "vanishing"]


class Reading(NamedTuple):
    """Numbers of one step, as they arrive from the device; flags are 0 or 1.

    Attributes:
        norm, loss: of this step; loss NaN where it is not judged.
        norm_median, loss_median: of those before it.
        norm_limit, loss_limit: above them is a spike; NaN where none is judged.
        nonfinite, norm_spike, loss_spike: what was found.
        withheld: whether the optimizer was kept from this step.
        moved, weights: sums of squares of the update before and of the weights, NaN mostly.
    """

    norm: float
    loss: float
    norm_median: float
    loss_median: float
    norm_limit: float
    loss_limit: float
    nonfinite: float
    norm_spike: float
    loss_spike: float
    withheld: float
    moved: float
    weights: float

    @property
    def is_spike(self) -> bool:
        return bool(self.norm_spike or self.loss_spike)


class Ledger:
    """Counts over the whole run, and shares over its last steps.

    Args:
        window: steps that a share is over.
        warmup: steps before a norm is compared with those before it.
    """

    def __init__(self, window: int, warmup: int) -> None:
        self.warmup = warmup
        self.steps = self.nonfinite = self.skipped = self.spikes = 0
        self.skipped_in_a_row = self.nonfinite_in_a_row = self.spikes_in_a_row = 0
        self.episode: Episode = ""
        self.clipped: deque[bool] = deque(maxlen=window)
        self.update_ratio: float | None = None

    def add(self, reading: Reading, clip_value: float | None) -> Episode:
        """Count a step in; the episode that begins with it, if one does."""
        self.steps += 1
        self.nonfinite += bool(reading.nonfinite)
        self.spikes += reading.is_spike
        self.skipped += bool(reading.withheld)
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if reading.withheld else 0
        self.nonfinite_in_a_row = self.nonfinite_in_a_row + 1 if reading.nonfinite else 0
        self.spikes_in_a_row = self.spikes_in_a_row + 1 if reading.is_spike else 0
        if clip_value is not None:
            self.clipped.append(reading.norm > clip_value)
        if reading.weights > 0:
            self.update_ratio = (reading.moved / reading.weights) ** 0.5
        before, self.episode = self.episode, self._judge(reading)
        return self.episode if self.episode != before else ""

    def metrics(self, reading: Reading) -> dict[str, float]:
        """What is logged of a step, without the area."""
        found = {
            "norm": reading.norm,
            "nonfinite_steps": float(self.nonfinite),
            "skipped_steps": float(self.skipped),
            "spikes": float(self.spikes),
        }
        if self.clipped:
            found["clip_fraction"] = sum(self.clipped) / len(self.clipped)
        if self.update_ratio is not None:
            found["update_ratio"] = self.update_ratio
        return found

    def _judge(self, reading: Reading) -> Episode:
        if reading.nonfinite or self.steps <= self.warmup:
            return self.episode
        if reading.norm > EXPLODING * reading.norm_median:
            return "exploding"
        return "vanishing" if reading.norm < VANISHING * reading.norm_median else ""

    def state_dict(self) -> dict[str, Any]:
        return {**vars(self), "clipped": list(self.clipped)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in vars(self).keys() & state.keys() - {"warmup", "clipped"}:
            setattr(self, name, state[name])
        self.clipped.extend(state["clipped"])
