"""Look where the backbone reads: the default."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_arrcoc.objectives.lesson import (
    Lesson,
    accuracy,
    mean_tensions,
    nothing_to_learn,
    packed_turns,
)
from lightning_arrcoc.objectives.tension_reward import TensionReward
from lightning_arrcoc.relevance.allocation import keep_top, token_count
from lightning_arrcoc.vlm import ArrCocQwen3VL
from lightning_arrcoc.vlm.attribution import attribute_answers
from lightning_arrcoc.vlm.lora import base_alone
from lightning_arrcoc.vlm.packing import SHARED, forward_packed

# Chosen on 400 validation canvases of the embedded backbone.
FADED = 0.8  # share of the tokens that a faded turn hardly sees
FADED_BY = 3.0  # taken from their attention logits; hidden for good they would have no gradient


class AttributionDistillation:
    """Teach ARR-COC to look where the backbone reads: the default.

    The frozen backbone answers from all tokens, and each answer is attributed to the visual tokens
    (`attribute_answers`). For some of the turns most tokens, drawn at random, are nearly hidden
    meanwhile: a choice will leave few as well, and what is read from few is not what is read from
    all. The loss is the Kullback-Leibler divergence of ARR-COC's relevance, by a softmax over the
    cells of a question's images at the allocator's temperature, from those shares. Every cell has a
    gradient in every step, whether it would have been chosen or not, and nothing is chosen while
    training, so one model serves every budget.

    ===========  ==================================================================  =====
    logged       what                                                                unit
    ===========  ==================================================================  =====
    covered      attribution that the most relevant cells hold, as many as the       share
                 model's budget has tokens
    kept         these cells                                                         count
    accuracy     answer tokens guessed right while the others are hidden from the    share
                 question; on every `accuracy_every`-th batch
    tension_*    mean of each tension                                                0 to 1
    ===========  ==================================================================  =====

    Args:
        accuracy_every: batches between two looks at the accuracy, which cost a forward pass.
        tensions: teaches compress and focus, which relevance does not depend on; None leaves them
            as they are.
        faded_turns: share of the turns that see most tokens nearly hidden.
        seed: of what is drawn; None takes that of torch, which `seed_everything` sets.

    Raises:
        ValueError: `accuracy_every` is below one, or `faded_turns` outside 0 to 1.

    Source: S. Jain, S. Wiegreffe, Y. Pinter, B. Wallace, "Learning to Faithfully Rationalize by
    Construction", ACL 2020, section 4 (a selector taught by the saliency of a support model).
    Departures: soft shares instead of thresholded labels; the answering model stays as it is. The
    random tokens are from V. Petsiuk, A. Das, K. Saenko, "RISE: Randomized Input Sampling for
    Explanation of Black-box Models", BMVC 2018, section 3.1; here gradients are averaged over them,
    by learning, and not scores.
    """

    mean_over = "questions"
    shares_of = staticmethod(attribute_answers)

    def __init__(
        self,
        accuracy_every: int = 10,
        tensions: TensionReward | None = None,
        faded_turns: float = 0.6,
        seed: int | None = None,
    ) -> None:
        if accuracy_every < 1:
            raise ValueError(f"accuracy_every={accuracy_every}; expected 1 or more.")
        if not 0 <= faded_turns <= 1:
            raise ValueError(f"faded_turns={faded_turns}; expected a share, 0 to 1.")
        self.accuracy_every = accuracy_every
        self.tensions = tensions
        self.faded_turns = faded_turns
        self.seed = torch.initial_seed() if seed is None else seed
        self.batches = 0

    def __call__(self, model: ArrCocQwen3VL, inputs: dict[str, Any], progress: float) -> Lesson:
        number, self.batches = self.batches, self.batches + 1  # alike in every process
        looks = number % self.accuracy_every == 0
        packed = packed_turns(model, inputs)
        asked = model.ask_turns(**packed) if "pixel_values" in packed else []
        if not asked:
            nothing = {"accuracy": torch.zeros(())} if looks else {}
            return Lesson(nothing_to_learn(model), nothing)
        for told in ("query_mask", "previous", "textures"):  # the questions have been asked
            packed.pop(told, None)
        visual_BL = (packed["input_ids"] == model.backbone.config.image_token_id) & (
            packed["turns"] == SHARED
        )
        faded_BTL = self._faded(visual_BL, int(packed["turns"].max()), number)
        with base_alone(model.backbone):
            shares_BTL = self.shares_of(model.backbone, **packed, key_bias=faded_BTL)
        losses, covered, counts = [], [], []
        keep_BTL = torch.zeros_like(shares_BTL, dtype=torch.bool)
        for question in asked:
            columns = visual_BL[question.row].nonzero()[:, 0]
            shares = shares_BTL[question.row, question.turn, columns]
            logits = torch.cat([image.logits.flatten() for image in question.found])
            temperature = model.arr_coc.allocator.temperature
            losses.append(divergence(shares, logits / temperature))
            kept = keep_top(logits, token_count(model.budget, len(logits)))
            keep_BTL[question.row, question.turn, columns[kept]] = True
            covered.append(shares[kept].sum())
            counts.append(len(kept))
        logs = {
            "covered": torch.stack(covered).mean(),
            "kept": torch.tensor(counts, dtype=torch.float32).mean(),
            **mean_tensions([image.tensions for question in asked for image in question.found]),
        }
        if looks:
            hidden = visual_BL[:, None] & ~keep_BTL
            bias = torch.zeros_like(shares_BTL).masked_fill(hidden, -torch.inf)
            with torch.no_grad():
                output = forward_packed(model.backbone, **packed, key_bias=bias)
            logs["accuracy"] = accuracy(output.logits, packed["labels"], model.end_tokens)
        loss = torch.stack(losses).mean()
        if self.tensions is not None:
            tried = self.tensions(model, inputs, asked, number)
            if tried is not None:
                loss, logs = loss + tried[0], logs | tried[1]
        return Lesson(loss, logs)

    def _faded(self, visual_BL: Tensor, turns: int, number: int) -> Tensor:
        """What is taken from the attention logits of each turn towards each token."""
        random = np.random.default_rng([self.seed, number])
        rows, length = visual_BL.shape
        turn_BT1 = random.random((rows, turns, 1)) < self.faded_turns
        faded_BTL = torch.from_numpy(turn_BT1 & (random.random((rows, turns, length)) < FADED))
        return -FADED_BY * (faded_BTL.to(visual_BL.device) & visual_BL[:, None]).float()

    def state_dict(self) -> dict[str, int]:
        return {"batches": self.batches}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.batches = int(state_dict.get("batches", 0))


def divergence(shares_N: Tensor, logits_N: Tensor) -> Tensor:
    """Kullback-Leibler divergence of ``softmax(logits_N)`` from the shares, nats; 0 without any."""
    entropy = torch.special.entr(shares_N).sum()
    crossed = -(shares_N * logits_N.log_softmax(-1)).sum()
    result: Tensor = crossed - entropy
    return result
