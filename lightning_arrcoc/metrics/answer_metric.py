"""What every metric of answers has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class AnswerMetric(Metric, ABC):
    """Mean over questions of how right each answer is; sums are shared between processes.

    ``update(predictions, answers)`` takes one prediction a question and all its accepted answers;
    ``compute()`` gives a scalar in [0, 1], nan where nothing was asked.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    total: Tensor
    questions: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("questions", torch.tensor(0), dist_reduce_fx="sum")

    @abstractmethod
    def score(self, prediction: str, accepted: Sequence[str]) -> float:
        """How right one answer is, 0 to 1; `accepted` has at least one entry."""

    def update(self, predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> None:
        """Add a batch.

        Args:
            predictions: one a question.
            answers: for each question those that are accepted, repetitions included.

        Raises:
            ValueError: the two differ in length, or a question accepts nothing.
            TypeError: `answers` holds plain strings, whose letters would pass for answers.
        """
        if len(predictions) != len(answers):
            raise ValueError(
                f"{len(predictions)} predictions for {len(answers)} questions; expected one each."
            )
        for prediction, accepted in zip(predictions, answers, strict=True):
            if isinstance(accepted, str):
                raise TypeError(
                    f"answers holds the text {accepted!r}; expected a list of accepted answers, "
                    f"[{accepted!r}], for every question."
                )
            if not accepted:
                raise ValueError(
                    f"A question accepts no answer (prediction: {prediction!r}); expected one or "
                    "more."
                )
            self.total += self.score(prediction, accepted)
            self.questions += 1

    def compute(self) -> Tensor:
        """Mean score, a scalar."""
        return self.total / self.questions
