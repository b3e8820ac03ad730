"""Batches that may have to be run once more, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor

from lightning_arrcoc.callbacks.gradients.search import find_first_nonfinite
from lightning_arrcoc.callbacks.gradients.telling import gathered
from lightning_arrcoc.callbacks.gradients.watched import Watched

Batches = list[tuple[Any, int]]


@dataclass
class Beside:
    """What belongs to numbers that are under way.

    Attributes:
        step: whose.
        each: `Measured.each`.
        batches: what the step was made of.
        names: gradients that are not finite.
        finding: where it began, in words; None while nobody looked.
    """

    step: int
    each: Tensor | None = None
    batches: Batches = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    finding: str | None = None


class Suspects:
    """Keeps the batches of a step until it is known that it was in order."""

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        self.why_not = ""
        self._batches: Batches = []

    def prepare(self, module: pl.LightningModule, sharded: bool) -> None:
        """Find out whether a batch of this run can be run once more."""
        self._batches = []
        takes_iterator = is_param_in_hook_signature(module.training_step, "dataloader_iter", True)
        reason = (
            "" if not self.wanted
            else "of manual optimization, which would step" if not module.automatic_optimization
            else "of sharded parameters, which it would leave gathered" if sharded
            else "training_step takes its batches by itself" if takes_iterator
            else ""
        )  # fmt: skip
        self.why_not = f"The module is not searched for, because {reason}." if reason else ""

    def keep(self, batch: Any, index: int) -> None:
        if self.wanted and not self.why_not:
            self._batches.append((batch, index))

    def take(self) -> Batches:
        batches, self._batches = self._batches, []
        return batches

    def look(
        self, trainer: pl.Trainer, module: pl.LightningModule, watched: Watched, beside: Beside
    ) -> None:
        """Find out where it began; all ranks together, which know alike that it happened."""
        if beside.each is not None:
            beside.names = watched.norms.nonfinite_names(beside.each)
        beside.finding = self.why_not
        if beside.batches:
            beside.finding = gathered(find_first_nonfinite(trainer, module, beside.batches))
        beside.batches = []
