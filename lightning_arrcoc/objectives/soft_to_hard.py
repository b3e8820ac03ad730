"""Gates first, the choice itself at the end."""

from __future__ import annotations

from typing import Any

import torch

from lightning_arrcoc.objectives.hard_choice import HardChoice
from lightning_arrcoc.objectives.lesson import Lesson
from lightning_arrcoc.objectives.soft_gates import SoftGates
from lightning_arrcoc.vlm import ArrCocQwen3VL


class SoftToHard:
    """`SoftGates`, sharp by the time they end, and `HardChoice` for the rest of the run.

    Logs what these two log, and ``hard``: 0 or 1.

    Args:
        soft, hard: None takes the usual. What the first's teacher remembers the second knows.
        hard_from: share of the run, 0 to 1, from which the choice is hard.

    Raises:
        ValueError: `hard_from` is no share.
    """

    reaches_lora = True

    def __init__(
        self,
        soft: SoftGates | None = None,
        hard: HardChoice | None = None,
        hard_from: float = 0.7,
    ) -> None:
        if not 0 <= hard_from <= 1:
            raise ValueError(f"hard_from={hard_from}; expected a share of the run, 0 to 1.")
        self.soft, self.hard = soft or SoftGates(), hard or HardChoice()
        self.hard.teacher = self.soft.teacher
        self.hard_from = hard_from

    def __call__(self, model: ArrCocQwen3VL, inputs: dict[str, Any], progress: float) -> Lesson:
        is_hard = progress >= self.hard_from
        if is_hard:
            lesson = self.hard(model, inputs, progress)
        else:
            lesson = self.soft(model, inputs, progress / self.hard_from)
        return lesson._replace(logs=lesson.logs | {"hard": torch.tensor(float(is_hard))})

    def state_dict(self) -> dict[str, int]:
        return self.hard.state_dict()

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.hard.load_state_dict(state_dict)
