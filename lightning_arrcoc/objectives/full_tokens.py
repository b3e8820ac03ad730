"""All tokens: for a backbone in training."""

from __future__ import annotations

from typing import Any

from lightning_arrcoc.objectives.lesson import Lesson, accuracy
from lightning_arrcoc.relevance.baselines import Everything
from lightning_arrcoc.vlm import ArrCocQwen3VL
from lightning_arrcoc.vlm.packing import forward_packed


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
