"""Answers from tokens that were chosen for good."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from lightning_arrcoc.objectives.budgets import BudgetRange
from lightning_arrcoc.objectives.lesson import Lesson, accuracy, mean_tensions, nothing_to_learn
from lightning_arrcoc.objectives.reading import read_of
from lightning_arrcoc.objectives.teacher import Teacher, at_answers, checked_weight
from lightning_arrcoc.vlm import ArrCocQwen3VL
from lightning_arrcoc.vlm.rows import a_row_a_turn


class HardChoice:
    """Answer from the chosen tokens alone, as in use: to go on from weights that look well already.

    Each batch has a budget of its own, drawn at random. The loss is the answer's cross-entropy,
    and the divergence of the answer from the one that the frozen backbone gives from all tokens.
    It reaches relevance through the features of the chosen tokens, which are scaled by 1 with the
    gradient of their relevance. What was not chosen learns nothing. Packed turns choose tokens
    each by itself, so each costs as much as a sample.

    ===========  ============================================================  ======
    logged       what                                                          unit
    ===========  ============================================================  ======
    accuracy     answer tokens guessed right from the chosen                   share
    answer       cross-entropy of the answer                                   nats
    divergence   from the full answer, where it is weighted                    nats
    budget       tokens that were allowed                                      share
    kept         tokens chosen                                                 count
    tension_*    mean of each tension                                          0 to 1
    ===========  ============================================================  ======

    Args:
        budgets: smallest and largest share of the tokens. Drawn evenly by their logarithm, so that
            few and many are as frequent.
        teacher_weight: of the divergence; 0 asks no teacher.
        teacher: who answers from all tokens; None takes one with the usual memory.
        seed: of the budgets; None takes that of torch, which `seed_everything` sets.

    Raises:
        ValueError: `budgets` are not in order within (0, 1], or weight or seed negative.

    Source: Y. Bengio, N. Leonard, A. Courville, "Estimating or Propagating Gradients Through
    Stochastic Neurons for Conditional Computation", arXiv 1308.3432, 2013 (the straight-through
    estimator). Departures: the best cells are chosen, none is drawn; a chosen one passes the
    gradient of its sigmoid on, and the others none.
    """

    reaches_lora = True

    def __init__(
        self,
        budgets: tuple[float, float] = (0.05, 0.25),
        teacher_weight: float = 0.5,
        teacher: Teacher | None = None,
        seed: int | None = None,
    ) -> None:
        self.budgets = BudgetRange(*budgets)
        self.teacher_weight = checked_weight(teacher_weight)
        self.teacher = teacher or Teacher()
        if seed is not None and seed < 0:
            raise ValueError(f"seed={seed}; expected 0 or more.")
        self.seed = torch.initial_seed() if seed is None else seed
        self.batches = 0

    def __call__(self, model: ArrCocQwen3VL, inputs: dict[str, Any], progress: float) -> Lesson:
        budget = self.draw()
        expected = self.teacher(model, inputs) if self.teacher_weight else None
        output = model(**a_row_a_turn(model.backbone, inputs), budget=budget, straight_through=True)
        logs = {"accuracy": accuracy(output.logits, output.labels, model.end_tokens)}
        if not output.relevance_logits:
            return Lesson(output.loss + nothing_to_learn(model), logs)  # adapters learn from it
        counts = [len(allocation.levels) for allocation in output.allocation]
        logs |= {
            "answer": output.loss.detach(),
            "budget": torch.tensor(budget),
            "kept": torch.tensor(counts, dtype=torch.float32).mean(),
            **mean_tensions([allocation.tensions for allocation in output.allocation]),
        }
        loss = output.loss
        if expected is not None:
            divergence = expected.divergence(at_answers(output.logits, output.labels))
            logs["divergence"] = divergence.detach()
            loss = loss + self.teacher_weight * divergence
        return Lesson(loss, logs, read_of(model, output, chosen=True))

    def draw(self) -> float:
        """The next batch's budget: the same in every process and every run of a seed."""
        random = np.random.default_rng([self.seed, self.batches])
        self.batches += 1
        return self.budgets.draw(random)

    def state_dict(self) -> dict[str, int]:
        return {"batches": self.batches}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.batches = int(state_dict.get("batches", 0))
