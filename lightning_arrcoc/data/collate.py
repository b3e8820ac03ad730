"""Samples -> a batch for the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from torch import Tensor

from lightning_arrcoc.data.sample import Sample

Encode = Callable[..., dict[str, Any]]
LookUp = Callable[[Sequence[Sample], Mapping[str, Any]], list[Tensor]]


class Batch(TypedDict):
    """What the loaders yield.

    Attributes:
        inputs: conversations with their answers, as the model's forward takes them.
        prompts: the same without the last answer, as generate takes them; only for measuring.
            Either may hold `textures`.
        answers: the last answers, in words.
        accepted: for each last question every answer that counts as right.
        families: kinds of question.
        images: how many each sample shows.
    """

    inputs: dict[str, Any]
    prompts: dict[str, Any]
    answers: list[str]
    accepted: list[tuple[str, ...]]
    families: list[str]
    images: list[int]


class Collator:
    """Encodes samples with the backbone's own processor.

    Args:
        processor: a `ChatProcessor`, or anything that is called like one.
        for_measuring: also prepare prompts to generate from.
        pack: encode every turn as if it were the only one; the processor must know how.
        textures: knows the textures of encoded samples, such as `CachedTextures`; None leaves them
            to the model.
    """

    def __init__(
        self,
        processor: Encode,
        *,
        for_measuring: bool,
        pack: bool = False,
        textures: LookUp | None = None,
    ) -> None:
        self.processor = processor
        self.for_measuring = for_measuring
        self.options = {"pack": True} if pack else {}
        self.textures = textures

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        prompts: dict[str, Any] = {}
        if self.for_measuring:
            prompts = self.processor([conversation(sample, answered=False) for sample in samples])
        inputs = self.processor(
            [conversation(sample, answered=True) for sample in samples], **self.options
        )
        if self.textures is not None and any(sample.images for sample in samples):
            inputs["textures"] = self.textures(samples, inputs)
            if prompts:
                prompts["textures"] = inputs["textures"]
        return Batch(
            inputs=inputs,
            prompts=prompts,
            answers=[sample.turns[-1].answer for sample in samples],
            accepted=[sample.turns[-1].truths for sample in samples],
            families=[sample.family for sample in samples],
            images=[len(sample.images) for sample in samples],
        )


def conversation(sample: Sample, *, answered: bool) -> dict[str, Any]:
    """The sample as a processor reads it, with or without its last answer."""
    answers = [turn.answer for turn in sample.turns]
    return {
        "images": sample.images,
        "questions": [turn.question for turn in sample.turns],
        "answers": answers if answered else answers[:-1],
    }
