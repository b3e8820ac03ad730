"""Samples -> a batch for the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from PIL import Image
from torch import Tensor

from lightning_arrcoc.data.sample import Sample, Turn

BLANK = Sample((Image.new("RGB", (64, 64)),), (Turn("-", "-"),))
IGNORED_LABEL = -100
Encode = Callable[..., dict[str, Any]]
LookUp = Callable[[Sequence[Sample], Mapping[str, Any]], list[Tensor]]


class _Encoded(TypedDict):
    inputs: dict[str, Any]
    prompts: dict[str, Any]
    answers: list[str]
    accepted: list[tuple[str, ...]]
    families: list[str]
    images: list[int]


class Batch(_Encoded, total=False):
    """What the loaders yield.

    Attributes:
        inputs: conversations with their answers, as the model's forward takes them.
        prompts: the same without the last answer, as generate takes them; only for measuring.
            Either may hold `textures`.
        answers: the last answers, in words.
        accepted: for each last question every answer that counts as right.
        families: kinds of question.
        images: how many each sample shows.
        real: how many samples count, the first ones; all of them where it is missing.
    """

    real: int


class Collator:
    """Encodes samples with the backbone's own processor.

    Args:
        processor: a `ChatProcessor`, or anything that is called like one.
        for_measuring: also prepare prompts to generate from.
        pack: encode every turn as if it were the only one; the processor must know how.
        textures: knows the textures of encoded samples, such as `CachedTextures`; None leaves them
            to the model.
        never_blind: give a batch that shows no image one row more, with a blank one and nothing to
            learn; its answers and images count samples as ever.
    """

    def __init__(
        self,
        processor: Encode,
        *,
        for_measuring: bool,
        pack: bool = False,
        textures: LookUp | None = None,
        never_blind: bool = False,
    ) -> None:
        self.processor = processor
        self.for_measuring = for_measuring
        self.options = {"pack": True} if pack else {}
        self.textures = textures
        self.never_blind = never_blind

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        blank = [BLANK] if self.never_blind and not any(one.images for one in samples) else []
        shown = [*samples, *blank]
        prompts: dict[str, Any] = {}
        if self.for_measuring:
            prompts = self.processor([conversation(sample, answered=False) for sample in shown])
        inputs = self.processor(
            [conversation(sample, answered=True) for sample in shown], **self.options
        )
        if blank:
            inputs["labels"][-1] = IGNORED_LABEL
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


def counted(batch: Batch) -> tuple[int, int]:
    """How many samples of a batch count, the first ones, and how many images these show."""
    real = batch.get("real", len(batch["answers"]))
    return real, sum(batch["images"][:real])


def conversation(sample: Sample, *, answered: bool) -> dict[str, Any]:
    """The sample as a processor reads it, with or without its last answer."""
    answers = [turn.answer for turn in sample.turns]
    return {
        "images": sample.images,
        "questions": [turn.question for turn in sample.turns],
        "answers": answers if answered else answers[:-1],
    }
