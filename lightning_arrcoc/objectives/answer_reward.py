"""Choices that answer better become more likely."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_arrcoc.objectives.lesson import Lesson, mean_tensions, nothing_to_learn, packed_turns
from lightning_arrcoc.vlm import ArrCocQwen3VL
from lightning_arrcoc.vlm.chat import IGNORED_LABEL
from lightning_arrcoc.vlm.packing import SHARED, forward_packed
from lightning_arrcoc.vlm.selection import Asked
from lightning_arrcoc.vlm.vision import encode_all


class AnswerReward:
    """Draw choices of cells, and make those more likely that answer better.

    Where `AttributionDistillation` teaches what the backbone reads, this rewards what suffices:
    cells that only compete for the answer are better hidden. It refines weights that look well
    already (``weights=`` of a run of `fit`); from the start nearly every draw would be wrong.

    For each question several choices are drawn without replacement by relevance, as many cells as
    a budget that is drawn for the question. The reward of a choice is the probability of the right
    answer while all other visual tokens are hidden from the question, which is how tokens are
    chosen in use. A choice gains by as much as it is better than the other ones of its question.
    The frozen backbone is asked forward only, and reads each image once.

    ===========  ==============================================  =====
    logged       what                                            unit
    ===========  ==============================================  =====
    accuracy     probability of the right answer, mean of draws  share
    kept         cells of a choice                               count
    tension_*    mean of each tension                            0 to 1
    ===========  ==============================================  =====

    Args:
        budgets: smallest and largest share of the cells. Drawn evenly by their logarithm.
        draws: choices for each question, 2 or more.
        seed: of what is drawn; None takes that of torch, which `seed_everything` sets.

    Raises:
        ValueError: `budgets` are not in order within (0, 1], fewer than 2 draws, or a negative
            seed.

    Source: W. Kool, H. van Hoof, M. Welling, "Buy 4 REINFORCE Samples, Get a Baseline for Free!",
    ICLR workshop 2019, section 2 (leave-one-out baseline); the same, "Stochastic Beams and Where
    to Find Them", ICML 2019, section 2 (drawing without replacement by Gumbel top-k).
    """

    def __init__(
        self,
        budgets: tuple[float, float] = (0.03, 0.3),
        draws: int = 4,
        seed: int | None = None,
    ) -> None:
        lowest, highest = float(budgets[0]), float(budgets[1])
        if not 0 < lowest <= highest <= 1:
            raise ValueError(
                f"budgets={tuple(budgets)}; expected a smallest and a largest share, above 0 and "
                "up to 1."
            )
        if draws < 2:
            raise ValueError(f"draws={draws}; expected 2 or more, to be compared.")
        if seed is not None and seed < 0:
            raise ValueError(f"seed={seed}; expected 0 or more.")
        self.budgets, self.draws = (lowest, highest), draws
        self.seed = torch.initial_seed() if seed is None else seed
        self.batches = 0

    def __call__(self, model: ArrCocQwen3VL, inputs: dict[str, Any], progress: float) -> Lesson:
        packed = packed_turns(model, inputs)
        asked = model.ask_turns(**packed) if "pixel_values" in packed else []
        random = np.random.default_rng([self.seed, self.batches])
        self.batches += 1
        if not asked:
            return Lesson(nothing_to_learn(model), {})
        logits_QN = relevance(asked) / model.arr_coc.allocator.temperature
        lowest, highest = self.budgets
        cells_Q = (logits_QN > ABSENT / 2).sum(1)
        share_Q = lowest * (highest / lowest) ** torch.from_numpy(random.random(len(asked)))
        budget_Q = (share_Q.to(cells_Q.device) * cells_Q).round().long().clamp(min=1)
        noise = random.gumbel(size=(self.draws, *logits_QN.shape))
        choices = draw_cells(logits_QN, budget_Q, torch.from_numpy(noise).to(logits_QN))
        reward_MQ = self._rewards(model, packed, asked, choices.chosen)
        gain_MQ = (reward_MQ - reward_MQ.mean(0)) * self.draws / (self.draws - 1)
        logs = {
            "accuracy": reward_MQ.mean(),
            "kept": budget_Q.float().mean(),
            **mean_tensions([image.tensions for question in asked for image in question.found]),
        }
        return Lesson(-(gain_MQ * choices.log_probability).mean(), logs)

    @torch.no_grad()
    def _rewards(
        self,
        model: ArrCocQwen3VL,
        packed: dict[str, Any],
        asked: list[Asked],
        chosen_MQN: Tensor,
    ) -> Tensor:
        """Probability of the right answer for each choice ``(M, Q)``."""
        visual_BL = (packed["input_ids"] == model.backbone.config.image_token_id) & (
            packed["turns"] == SHARED
        )
        grids = packed["image_grid_thw"]
        features = encode_all(model.backbone.model.visual, packed["pixel_values"], grids)
        labels, turns = packed["labels"], packed["turns"]
        rows = torch.tensor([question.row for question in asked], device=turns.device)
        numbers = torch.tensor([question.turn for question in asked], device=turns.device)
        answer_QL = (turns[rows] == numbers[:, None] + 1) & (labels[rows] != IGNORED_LABEL)
        rewards = []
        for chosen_QN in chosen_MQN:
            bias = torch.zeros(len(turns), int(turns.max()), turns.shape[1], device=turns.device)
            for q, question in enumerate(asked):
                columns = visual_BL[question.row].nonzero()[:, 0]
                hidden = columns[~chosen_QN[q, : len(columns)]]
                bias[question.row, question.turn, hidden] = -torch.inf
            output = forward_packed(
                model.backbone,
                input_ids=packed["input_ids"],
                turns=turns,
                image_grid_thw=grids,
                features=features,
                key_bias=bias,
            )
            surprise_BL = F.cross_entropy(
                output.logits[:, :-1].float().transpose(1, 2),
                labels[:, 1:],
                ignore_index=IGNORED_LABEL,
                reduction="none",
            )
            rewards.append((-(surprise_BL[rows] * answer_QL[:, 1:]).sum(1)).exp())
        return torch.stack(rewards)

    def state_dict(self) -> dict[str, int]:
        return {"batches": self.batches}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.batches = int(state_dict.get("batches", 0))


ABSENT = -1e4  # log-odds of what fills up shorter rows; finite, for the gradient's sake


class Choices(NamedTuple):
    """Cells drawn without replacement.

    Attributes:
        chosen: ``(M, Q, N)`` bool.
        log_probability: of each choice in the order in which its cells were drawn ``(M, Q)``.
    """

    chosen: Tensor
    log_probability: Tensor


def relevance(asked: list[Asked]) -> Tensor:
    """Log-odds of every question's cells, through all of its images, filled up ``(Q, N)``."""
    rows = [torch.cat([image.logits.flatten() for image in question.found]) for question in asked]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=ABSENT)


def draw_cells(logits_QN: Tensor, budget_Q: Tensor, gumbel_MQN: Tensor) -> Choices:
    """The highest of perturbed logits, which are a draw one by one by ``softmax(logits)``.

    Args:
        logits_QN: unnormalised log-probabilities; `ABSENT` and below is never drawn.
        budget_Q: how many of each row, at most as many as it has.
        gumbel_MQN: standard Gumbel noise.
    """
    order_MQN = (logits_QN.detach() + gumbel_MQN).argsort(-1, descending=True)
    ranked_MQN = logits_QN.expand_as(order_MQN).gather(-1, order_MQN)
    left_MQN = ranked_MQN.flip(-1).logcumsumexp(-1).flip(-1)  # what a cell was drawn from
    drawn_MQN = torch.arange(order_MQN.shape[-1], device=order_MQN.device) < budget_Q[:, None]
    drawn_MQN = drawn_MQN.expand_as(order_MQN)
    log_probability = torch.where(drawn_MQN, ranked_MQN - left_MQN, 0).sum(-1)
    chosen = torch.zeros_like(drawn_MQN).scatter(-1, order_MQN, drawn_MQN)
    return Choices(chosen, log_probability)
