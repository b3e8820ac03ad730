"""All tokens: for a backbone in training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from lightning_arrcoc.objectives.lesson import Lesson, accuracy
from lightning_arrcoc.relevance.baselines import Everything
from lightning_arrcoc.vlm import ArrCocQwen3VL
from lightning_arrcoc.vlm.packing import forward_packed

READ = ("input_ids", "attention_mask", "turns", "pixel_values", "image_grid_thw", "labels")


class FullTokens:
    """Answer from all tokens: for a backbone in training.

    The loss is the mean cross-entropy of answer tokens.

    =========  ================================  =====
    logged     what                              unit
    =========  ================================  =====
    accuracy   answer tokens guessed right       share
    =========  ================================  =====
    """

    def __call__(self, model: ArrCocQwen3VL, inputs: dict[str, Any], progress: float) -> Lesson:
        answer = answer_fully(model, inputs)
        right = accuracy(answer.logits, answer.labels, model.end_tokens)
        return Lesson(answer.loss, {"accuracy": right})


class Answer(NamedTuple):
    """What all tokens led to.

    Attributes:
        loss: mean cross-entropy of answer tokens, nats.
        logits: ``(B, L, V)``.
        labels: the targets that belong to them ``(B, L)``.
    """

    loss: Tensor
    logits: Tensor
    labels: Tensor


def answer_fully(model: ArrCocQwen3VL, inputs: Mapping[str, Any]) -> Answer:
    """Answer a batch, packed or not, from all of its tokens."""
    known = {key: inputs[key] for key in READ if key in inputs}
    if "turns" in inputs:
        del known["attention_mask"]
        output = forward_packed(model.backbone, **known)
        return Answer(output.loss, output.logits, inputs["labels"])
    output = model(**known, selector=Everything(), budget=1.0)
    return Answer(output.loss, output.logits, output.labels)
