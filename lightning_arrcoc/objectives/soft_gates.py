"""Gates on attention that close as training goes on."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from lightning_arrcoc.objectives.lesson import Lesson, accuracy, mean_tensions, nothing_to_learn
from lightning_arrcoc.objectives.reading import read_of
from lightning_arrcoc.objectives.teacher import Teacher, at_answers, checked_weight
from lightning_arrcoc.vlm import ArrCocQwen3VL
from lightning_arrcoc.vlm.rows import a_row_a_turn


class SoftGates:
    """Answer from tokens whose gates are learned: the alternative to being taught.

    Every token is kept, and attention towards it is biased by the logarithm of its gate,
    ``sigmoid(sharpness * relevance logit)``. Sharpness grows over the run, and a penalty on the
    mean gate makes a choice of it. What leaks through half-closed gates goes unpunished, and a
    closed one hardly learns. Packed turns have gates each of its own, so each costs as much as a
    sample.

    ===========  =========================================  ======
    logged       what                                       unit
    ===========  =========================================  ======
    accuracy     answer tokens guessed right, softly        share
    answer       cross-entropy of the answer                nats
    divergence   from the full answer, where it is weighted  nats
    gate         mean gate                                  share
    kept         tokens whose gate is more than half open   count
    tension_*    mean of each tension                       0 to 1
    ===========  =========================================  ======

    Args:
        sharpness: at the first and at the last step.
        gate_target: mean gate above which the penalty sets in.
        gate_weight: nats of penalty per unit of mean gate above the target.
        teacher_weight: of the divergence from the answer that the frozen backbone gives with all
            gates open; 0 asks no teacher.
        teacher: who gives it; None takes one with the usual memory.

    Raises:
        ValueError: `teacher_weight` is negative.
    """

    reaches_lora = True

    def __init__(
        self,
        sharpness: tuple[float, float] = (1.0, 5.0),
        gate_target: float = 0.05,
        gate_weight: float = 2.0,
        teacher_weight: float = 0.0,
        teacher: Teacher | None = None,
    ) -> None:
        self.sharpness = (float(sharpness[0]), float(sharpness[1]))
        self.gate_target, self.gate_weight = gate_target, gate_weight
        self.teacher_weight = checked_weight(teacher_weight)
        self.teacher = teacher or Teacher()

    def __call__(self, model: ArrCocQwen3VL, inputs: dict[str, Any], progress: float) -> Lesson:
        sharpness = self.sharpness[0] + progress * (self.sharpness[1] - self.sharpness[0])
        expected = self.teacher(model, inputs) if self.teacher_weight else None
        output = model(**a_row_a_turn(model.backbone, inputs), soft_sharpness=sharpness)
        logs = {"accuracy": accuracy(output.logits, output.labels, model.end_tokens)}
        if not output.relevance_logits:
            return Lesson(output.loss + nothing_to_learn(model), logs)  # adapters learn from it
        gates = [(sharpness * logits).sigmoid() for logits in output.relevance_logits]
        mean_gate = torch.stack([gate.mean() for gate in gates]).mean()
        kept = [(gate > 0.5).float().sum() for gate in gates]
        logs |= {"answer": output.loss.detach(), "gate": mean_gate.detach()}
        logs |= {"kept": torch.stack(kept).mean()}
        logs |= mean_tensions([allocation.tensions for allocation in output.allocation])
        loss = output.loss + self.gate_weight * F.relu(mean_gate - self.gate_target)
        if expected is not None:
            divergence = expected.divergence(at_answers(output.logits, output.labels))
            logs["divergence"] = divergence.detach()
            loss = loss + self.teacher_weight * divergence
        return Lesson(loss, logs, read_of(model, output, chosen=False))
