"""What a training step minimises: one class an objective, each called with a batch."""

from lightning_arrcoc.objectives.attention_distillation import AttentionDistillation
from lightning_arrcoc.objectives.attribution_distillation import AttributionDistillation, divergence
from lightning_arrcoc.objectives.full_tokens import FullTokens
from lightning_arrcoc.objectives.hard_choice import HardChoice
from lightning_arrcoc.objectives.lesson import Lesson, Objective, accuracy
from lightning_arrcoc.objectives.reading import Read
from lightning_arrcoc.objectives.soft_gates import SoftGates
from lightning_arrcoc.objectives.soft_to_hard import SoftToHard
from lightning_arrcoc.objectives.teacher import Expected, Teacher
from lightning_arrcoc.objectives.tension_reward import TensionReward

__all__ = [
    "AttentionDistillation",
    "AttributionDistillation",
    "Expected",
    "FullTokens",
    "HardChoice",
    "Lesson",
    "Objective",
    "Read",
    "SoftGates",
    "SoftToHard",
    "Teacher",
    "TensionReward",
    "accuracy",
    "divergence",
]
