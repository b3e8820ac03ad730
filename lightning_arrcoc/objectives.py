"""What a training step minimises: one class an objective, each called with a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_arrcoc.relevance.allocation import keep_top, token_count
from lightning_arrcoc.relevance.balancing import TENSIONS
from lightning_arrcoc.relevance.baselines import Everything
from lightning_arrcoc.vlm import ArrCocQwen3VL
from lightning_arrcoc.vlm.attribution import attribute_answers
from lightning_arrcoc.vlm.chat import IGNORED_LABEL
from lightning_arrcoc.vlm.packing import forward_packed, turns_of


class Lesson(NamedTuple):
    """What a batch teaches.

    Attributes:
        loss: scalar, nats.
        logs: further figures by name, detached scalars.
    """

    loss: Tensor
    logs: dict[str, Tensor]


class Objective(Protocol):
    """Anything that makes a loss of a model and a batch."""

    def __call__(self, model: ArrCocQwen3VL, inputs: dict[str, Any], progress: float) -> Lesson:
        """Look at one batch.

        Args:
            model: whose parts learn.
            inputs: as the data module's batch holds them.
            progress: share of the run that lies behind, 0 to 1.
        """


class FullTokens:
    """Answer from all tokens: for a backbone in training.

    The loss is the mean cross-entropy of answer tokens.

    =========  ================================  =====
    logged     what                              unit
    =========  ================================  =====
    accuracy   answer tokens guessed right       share
    =========  ================================  =====
    """

    def __init__(self) -> None:
        self.everything = Everything()

    def __call__(self, model: ArrCocQwen3VL, inputs: dict[str, Any], progress: float) -> Lesson:
        if "turns" in inputs:
            dropped = ("attention_mask", "query_mask")
            known = {key: value for key, value in inputs.items() if key not in dropped}
            output = forward_packed(model.backbone, **known)
            labels = inputs["labels"]
        else:
            output = model(**inputs, selector=self.everything, budget=1.0)
            labels = output.labels
        return Lesson(output.loss, {"accuracy": accuracy(output.logits, labels, model.end_tokens)})


class AttributionDistillation:
    """Teach ARR-COC to look where the backbone reads: the default.

    The frozen backbone answers from all tokens, and each answer is attributed to the visual tokens
    (`attribute_answers`). The loss is the Kullback-Leibler divergence of ARR-COC's relevance, by a
    softmax over the cells of a question's images at the allocator's temperature, from those
    shares. Every cell has a gradient in every step, whether it would have been chosen or not, and
    nothing is chosen while training, so one model serves every budget.

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

    Raises:
        ValueError: `accuracy_every` is below one.

    Source: S. Jain, S. Wiegreffe, Y. Pinter, B. Wallace, "Learning to Faithfully Rationalize by
    Construction", ACL 2020, section 4 (a selector taught by the saliency of a support model).
    Departures: soft shares instead of thresholded labels; the answering model stays as it is.
    """

    def __init__(self, accuracy_every: int = 10) -> None:
        if accuracy_every < 1:
            raise ValueError(f"accuracy_every={accuracy_every}; expected 1 or more.")
        self.accuracy_every = accuracy_every
        self.batches = 0

    def __call__(self, model: ArrCocQwen3VL, inputs: dict[str, Any], progress: float) -> Lesson:
        packed = self._packed(model, inputs)
        asked = model.ask_turns(**packed) if "pixel_values" in packed else []
        if not asked:
            return Lesson(nothing_to_learn(model), {})
        for told in ("query_mask", "previous"):  # the questions have been asked
            packed.pop(told, None)
        shares_BTL = attribute_answers(model.backbone, **packed)
        visual_BL = (packed["input_ids"] == model.backbone.config.image_token_id) & (
            packed["turns"] == 0
        )
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
        if self.batches % self.accuracy_every == 0:
            hidden = visual_BL[:, None] & ~keep_BTL
            bias = torch.zeros_like(shares_BTL).masked_fill(hidden, -torch.inf)
            with torch.no_grad():
                output = forward_packed(model.backbone, **packed, key_bias=bias)
            logs["accuracy"] = accuracy(output.logits, packed["labels"], model.end_tokens)
        self.batches += 1
        return Lesson(torch.stack(losses).mean(), logs)

    def _packed(self, model: ArrCocQwen3VL, inputs: dict[str, Any]) -> dict[str, Any]:
        """The batch as `forward_packed` takes it, and its questions."""
        packed = {key: value for key, value in inputs.items() if key != "attention_mask"}
        if "turns" not in packed:
            packed["turns"] = turns_of(
                inputs["input_ids"], inputs["attention_mask"], model.backbone.config.image_token_id
            )
        return packed


class SoftGates:
    """Answer from tokens whose gates are learned: the alternative to being taught.

    Every token is kept, and attention towards it is biased by the logarithm of its gate,
    ``sigmoid(sharpness * relevance logit)``. Sharpness grows over the run, and a penalty on the
    mean gate makes a choice of it. What leaks through half-closed gates goes unpunished, and a
    closed one hardly learns. Turns cannot be packed (``data.pack_turns=false``).

    ===========  =========================================  ======
    logged       what                                       unit
    ===========  =========================================  ======
    accuracy     answer tokens guessed right, softly        share
    gate         mean gate                                  share
    kept         tokens whose gate is more than half open   count
    tension_*    mean of each tension                       0 to 1
    ===========  =========================================  ======

    Args:
        sharpness: at the first and at the last step.
        gate_target: mean gate above which the penalty sets in.
        gate_weight: nats of penalty per unit of mean gate above the target.
    """

    def __init__(
        self,
        sharpness: tuple[float, float] = (1.0, 5.0),
        gate_target: float = 0.05,
        gate_weight: float = 2.0,
    ) -> None:
        self.sharpness = (float(sharpness[0]), float(sharpness[1]))
        self.gate_target, self.gate_weight = gate_target, gate_weight

    def __call__(self, model: ArrCocQwen3VL, inputs: dict[str, Any], progress: float) -> Lesson:
        sharpness = self.sharpness[0] + progress * (self.sharpness[1] - self.sharpness[0])
        output = model(**inputs, soft_sharpness=sharpness)
        logs = {"accuracy": accuracy(output.logits, output.labels, model.end_tokens)}
        if not output.relevance_logits:
            return Lesson(nothing_to_learn(model), logs)
        gates = [(sharpness * logits).sigmoid() for logits in output.relevance_logits]
        mean_gate = torch.stack([gate.mean() for gate in gates]).mean()
        kept = [(gate > 0.5).float().sum() for gate in gates]
        logs |= {"gate": mean_gate.detach(), "kept": torch.stack(kept).mean()}
        logs |= mean_tensions([allocation.tensions for allocation in output.allocation])
        return Lesson(output.loss + self.gate_weight * F.relu(mean_gate - self.gate_target), logs)


def divergence(shares_N: Tensor, logits_N: Tensor) -> Tensor:
    """Kullback-Leibler divergence of ``softmax(logits_N)`` from the shares, nats; 0 without any."""
    entropy = torch.special.entr(shares_N).sum()
    crossed = -(shares_N * logits_N.log_softmax(-1)).sum()
    result: Tensor = crossed - entropy
    return result


def nothing_to_learn(model: ArrCocQwen3VL) -> Tensor:
    """A loss of 0 on every parameter of ARR-COC: other processes wait for this one's gradients."""
    return 0.0 * torch.stack([p.sum() for p in model.arr_coc.parameters()]).sum()


def mean_tensions(tensions: Sequence[Tensor]) -> dict[str, Tensor]:
    """The mean of each tension, to be logged."""
    mean = torch.stack(list(tensions)).detach().mean(0)
    return {f"tension_{name}": value for name, value in zip(TENSIONS, mean, strict=True)}


def accuracy(logits_BLV: Tensor, labels_BL: Tensor, end_tokens: Sequence[int]) -> Tensor:
    """Share of answer tokens guessed right; the end of the turn, which always follows, is none."""
    targets = labels_BL[:, 1:]
    ends = torch.isin(targets, targets.new_tensor(list(end_tokens)))
    asked = (targets != IGNORED_LABEL) & ~ends
    right = logits_BLV[:, :-1].argmax(-1) == targets
    share: Tensor = right[asked].float().mean()
    return share
