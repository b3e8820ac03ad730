"""Tensions that answer better become more likely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_arrcoc.objectives.budgets import BudgetRange
from lightning_arrcoc.objectives.teacher import at_answers
from lightning_arrcoc.relevance import Allocation, ImageRelevance, Realization
from lightning_arrcoc.relevance.balancing import TENSIONS
from lightning_arrcoc.relevance.baselines import Everything
from lightning_arrcoc.vlm import ArrCocQwen3VL
from lightning_arrcoc.vlm.chat import IGNORED_LABEL
from lightning_arrcoc.vlm.rows import a_row_a_turn, take_rows
from lightning_arrcoc.vlm.selection import Asked

DRAWN = [TENSIONS.index("compress"), TENSIONS.index("focus")]
MARGIN = 1e-4  # tensions nearer to 0 or 1 count as that near, so that their log-odds are finite


class TensionReward:
    """What teaches compress and focus, which act on the choice of tokens alone.

    No gradient passes through that choice, so it is tried: for some samples of a batch tensions
    are drawn around those of the model, tokens are chosen by them at a budget drawn for each
    question, and the frozen backbone answers. Tensions become more likely by as much as the right
    answer was more probable than with the other draws for the same question.

    ==========  =============================================  =====
    logged      what                                           unit
    ==========  =============================================  =====
    reward      probability of the right answer, mean of draws  share
    ==========  =============================================  =====

    Args:
        samples: of each batch, with all their questions.
        draws: tensions for each question, 2 or more.
        spread: standard deviation of the draws, in log-odds.
        budgets: smallest and largest share of the cells. Drawn evenly by their logarithm.
        every: batches from one trial to the next.
        weight: of its loss beside the objective's own.
        seed: of what is drawn; None takes that of torch, which `seed_everything` sets.

    Raises:
        ValueError: a number is out of its range, or `budgets` are not in order within (0, 1].

    Source: R. Williams, "Simple statistical gradient-following algorithms for connectionist
    reinforcement learning", Machine Learning 1992, section 6 (Gaussian units); W. Kool, H. van
    Hoof, M. Welling, "Buy 4 REINFORCE Samples, Get a Baseline for Free!", ICLR workshop 2019,
    section 2 (the mean of the other draws as baseline).
    """

    def __init__(
        self,
        samples: int = 3,
        draws: int = 4,
        spread: float = 1.0,
        budgets: tuple[float, float] = (0.04, 0.3),
        every: int = 2,
        weight: float = 3.0,
        seed: int | None = None,
    ) -> None:
        for name, value, least in (
            ("samples", samples, 1), ("draws", draws, 2), ("every", every, 1), ("seed", seed, 0),
        ):  # fmt: skip
            if value is not None and value < least:
                raise ValueError(f"{name}={value}; expected {least} or more.")
        for name, number in (("spread", spread), ("weight", weight)):
            if not number > 0:
                raise ValueError(f"{name}={number}; expected a number above 0.")
        self.samples, self.draws, self.spread = samples, draws, spread
        self.budgets, self.every, self.weight = BudgetRange(*budgets), every, weight
        self.seed = torch.initial_seed() if seed is None else seed

    def __call__(
        self, model: ArrCocQwen3VL, inputs: dict[str, Any], asked: Sequence[Asked], batch: int
    ) -> tuple[Tensor, dict[str, Tensor]] | None:
        """Try tensions on a batch.

        Args:
            model: whose tensions learn.
            inputs: a batch with images and answers, packed or not.
            asked: what its questions find relevant, with the gradient of their tensions.
            batch: counted from 0; decides what is drawn.

        Returns:
            The weighted loss and what is logged; None where nothing is tried.
        """
        if batch % self.every or not asked or not asked[0].found[0].tensions.requires_grad:
            return None
        random = np.random.default_rng([self.seed, batch])
        with_images = sorted({question.row for question in asked})
        count = min(self.samples, len(with_images))
        rows = sorted(random.choice(with_images, count, replace=False).tolist())
        tried = [question for question in asked if question.row in rows]
        alone = a_row_a_turn(model.backbone, take_rows(model.backbone, inputs, rows))
        budgets = [self.budgets.draw(random) for _ in tried]
        images = [image.tensions[DRAWN] for question in tried for image in question.found]
        tensions_I2 = torch.stack(images)
        within_I2 = tensions_I2 + (tensions_I2.clamp(MARGIN, 1 - MARGIN) - tensions_I2).detach()
        reach_I2 = within_I2.logit()
        owner_I = torch.tensor([q for q, question in enumerate(tried) for _ in question.found])
        rewards, likelihoods = [], []
        for _ in range(self.draws):
            noise_I2 = torch.from_numpy(random.standard_normal(reach_I2.shape)).to(reach_I2)
            drawn_I2 = reach_I2.detach() + self.spread * noise_I2
            rewards.append(self._reward(model, alone, tried, drawn_I2.sigmoid(), budgets))
            likelihood_I = -((drawn_I2 - reach_I2) / self.spread).square().sum(1) / 2
            nothing_Q = likelihood_I.new_zeros(len(tried))
            likelihoods.append(nothing_Q.index_add(0, owner_I.to(reach_I2.device), likelihood_I))
        reward_MQ, likelihood_MQ = torch.stack(rewards), torch.stack(likelihoods)
        gain_MQ = (reward_MQ - reward_MQ.mean(0)) * self.draws / (self.draws - 1)
        loss = -self.weight * (gain_MQ * likelihood_MQ).mean()
        return loss, {"reward": reward_MQ.mean()}

    @torch.no_grad()
    def _reward(
        self,
        model: ArrCocQwen3VL,
        alone: dict[str, Any],
        tried: Sequence[Asked],
        drawn_I2: Tensor,
        budgets: Sequence[float],
    ) -> Tensor:
        """Probability of the right answer to each question ``(Q,)``, with these tensions."""
        drawn = iter(drawn_I2)
        allocations = []
        for question, budget in zip(tried, budgets, strict=True):
            found = [with_tensions(image, next(drawn)) for image in question.found]
            allocations.append(model.arr_coc.allocator(found, budget))
        output = model(**alone, selector=Decided(allocations))
        targets_QL = output.labels[:, 1:]
        answering_QL = targets_QL != IGNORED_LABEL
        surprise_A = F.cross_entropy(
            at_answers(output.logits, output.labels).float(),
            targets_QL[answering_QL],
            reduction="none",
        )
        owner_A = answering_QL.nonzero()[:, 0]
        surprise_Q = surprise_A.new_zeros(len(targets_QL)).index_add(0, owner_A, surprise_A)
        return (-surprise_Q).exp()


class Decided:
    """A selector whose choice has been made, sample by sample."""

    def __init__(self, allocations: Sequence[list[Allocation]]) -> None:
        self.everything, self.left = Everything(), iter(allocations)

    def __call__(self, *asked: Any) -> Realization:
        found: Realization = self.everything(*asked)
        return found

    def allocator(
        self, found: Sequence[ImageRelevance], budget: int | float | None
    ) -> list[Allocation]:
        """The next sample's."""
        return next(self.left)


def with_tensions(image: ImageRelevance, drawn_2: Tensor) -> ImageRelevance:
    """The same image, with these tensions for compress and focus."""
    tensions = image.tensions.detach().clone()
    tensions[DRAWN] = drawn_2
    return image._replace(tensions=tensions)
