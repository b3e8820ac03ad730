"""Look where the backbone reads: the default."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_arrcoc.objectives.lesson import Lesson, accuracy, mean_tensions, nothing_to_learn
from lightning_arrcoc.vlm import ArrCocQwen3VL
from lightning_arrcoc.vlm.attribution import attribute_answers
from lightning_arrcoc.vlm.lora import base_alone
from lightning_arrcoc.vlm.packing import forward_packed, turns_of
from lightning_arrcoc.vlm.selection import Asked


class AttributionDistillation:
    """Teach ARR-COC to look where the backbone reads: the default.

    The frozen backbone answers from all tokens, and each answer is attributed to the visual tokens
    (`attribute_answers`). The loss is the Kullback-Leibler divergence of ARR-COC's relevance, by a
    softmax over the cells of a question's images, from those shares. Every cell has a gradient
    in every step, whether it would have been chosen or not, and nothing is chosen while training,
    so one model serves every budget.

    ===========  ==================================================================  =====
    logged       what                                                                unit
    ===========  ==================================================================  =====
    covered      attribution that the cells chosen at the model's budget hold        share
    kept         tokens chosen at that budget                                        count
    accuracy     answer tokens guessed right while the others are hidden from the    share
                 question; on every `accuracy_every`-th batch
    tension_*    mean of each tension                                                0 to 1
    ===========  ==================================================================  =====

    Args:
        temperature: of that softmax, which tells a few cells from hundreds. At 1 the log-odds have
            to grow first, and the tension `exploit` did it by falling to 0.05 at once, whatever
            was asked.
        accuracy_every: batches between two looks at the accuracy, which cost a forward pass.

    Raises:
        ValueError: `temperature` is not positive, or `accuracy_every` below one.

    Source: S. Jain, S. Wiegreffe, Y. Pinter, B. Wallace, "Learning to Faithfully Rationalize by
    Construction", ACL 2020, section 4 (a selector taught by the saliency of a support model).
    Departures: soft shares instead of thresholded labels; the answering model stays as it is.
    """

    shares_of = staticmethod(attribute_answers)

    def __init__(self, temperature: float = 0.25, accuracy_every: int = 10) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature={temperature}; expected a number above 0.")
        if accuracy_every < 1:
            raise ValueError(f"accuracy_every={accuracy_every}; expected 1 or more.")
        self.temperature, self.accuracy_every = temperature, accuracy_every
        self.batches = 0

    def __call__(self, model: ArrCocQwen3VL, inputs: dict[str, Any], progress: float) -> Lesson:
        packed = self._packed(model, inputs)
        asked = model.ask_turns(**packed) if "pixel_values" in packed else []
        if not asked:
            return Lesson(nothing_to_learn(model), {})
        del packed["query_mask"]  # the questions have been asked
        with base_alone(model.backbone):
            shares_BTL = self.shares_of(model.backbone, **packed)
        visual_BL = (packed["input_ids"] == model.backbone.config.image_token_id) & (
            packed["turns"] == 0
        )
        losses, covered, counts = [], [], []
        keep_BTL = torch.zeros_like(shares_BTL, dtype=torch.bool)
        for question in asked:
            columns = visual_BL[question.row].nonzero()[:, 0]
            shares = shares_BTL[question.row, question.turn, columns]
            logits = torch.cat([x.flatten() for x in question.relevance_logits])
            losses.append(divergence(shares, logits / self.temperature))
            kept = self._chosen(model, question)
            keep_BTL[question.row, question.turn, columns[kept]] = True
            covered.append(shares[kept].sum())
            counts.append(len(kept))
        logs = {
            "covered": torch.stack(covered).mean(),
            "kept": torch.tensor(counts, dtype=torch.float32).mean(),
            **mean_tensions([t for question in asked for t in question.tensions]),
        }
        if self.batches % self.accuracy_every == 0:
            hidden = visual_BL[:, None] & ~keep_BTL
            bias = torch.zeros_like(shares_BTL).masked_fill(hidden, -torch.inf)
            with torch.no_grad():
                output = forward_packed(model.backbone, **packed, key_bias=bias)
            logs["accuracy"] = accuracy(output.logits, packed["labels"], model.end_tokens)
        self.batches += 1
        return Lesson(torch.stack(losses).mean(), logs)

    def state_dict(self) -> dict[str, int]:
        return {"batches": self.batches}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.batches = int(state_dict.get("batches", 0))

    def _packed(self, model: ArrCocQwen3VL, inputs: dict[str, Any]) -> dict[str, Any]:
        """The batch as `forward_packed` takes it, and its questions."""
        packed = {key: value for key, value in inputs.items() if key != "attention_mask"}
        if "turns" not in packed:
            packed["turns"] = turns_of(
                inputs["input_ids"], inputs["attention_mask"], model.backbone.config.image_token_id
            )
        return packed

    def _chosen(self, model: ArrCocQwen3VL, question: Asked) -> Tensor:
        """Which of a row's cells the model would keep, counted through all of its images."""
        maps = [logits.detach() for logits in question.relevance_logits]
        allocations = model.arr_coc.allocator(maps, question.tensions, None)
        offsets = torch.tensor([0, *(x.numel() for x in maps)]).cumsum(0)
        return torch.cat([a.cells + o for a, o in zip(allocations, offsets.tolist(), strict=False)])


def divergence(shares_N: Tensor, logits_N: Tensor) -> Tensor:
    """Kullback-Leibler divergence of ``softmax(logits_N)`` from the shares, nats; 0 without any."""
    entropy = torch.special.entr(shares_N).sum()
    crossed = -(shares_N * logits_N.log_softmax(-1)).sum()
    result: Tensor = crossed - entropy
    return result
