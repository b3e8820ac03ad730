"""What a training step minimises: one class an objective, each called with a batch."""

from lightning_arrcoc.objectives.attribution_distillation import AttributionDistillation, divergence
from lightning_arrcoc.objectives.full_tokens import FullTokens
from lightning_arrcoc.objectives.lesson import Lesson, Objective, accuracy
from lightning_arrcoc.objectives.soft_gates import SoftGates

__all__ = [
    "AttributionDistillation",
    "FullTokens",
    "Lesson",
    "Objective",
    "SoftGates",
    "accuracy",
    "divergence",
]
