"""Several people's prompts, answered together: each with its own budget, length and end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from lightning_arrcoc.relevance import Allocation, ImageRelevance, Selector
from lightning_arrcoc.vlm.messages import Row, batch_rows
from lightning_arrcoc.vlm.qwen3_vl import ArrCocQwen3VL
from lightning_arrcoc.vlm.writing import AnswerWriter, Reason

COLDEST = 1e-5  # temperature: below it numbers overflow, and the likeliest token is certain


class Prompt(NamedTuple):
    """What one person asks.

    Attributes:
        row: as `encode_messages` returns it.
        images: as `fit_image` leaves them.
        budget: visual tokens, as for the model; None takes the model's own.
        max_tokens: of the answer.
        stop: texts that end the answer.
        temperature: 0 takes the likeliest token, others draw one.
        top_p: draw among the likeliest tokens that hold this share together.
        seed: of what is drawn; None: never the same.
        deadline: by `time.monotonic`, when the answer is cut off.
    """

    row: Row
    images: tuple[Image.Image, ...]
    budget: int | float | None = None
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    deadline: float = float("inf")


class Piece(NamedTuple):
    """A part of an answer.

    Attributes:
        text: what is new.
        reason: why the answer ended, in its last piece; None before.
        tokens: of the answer so far.
        allocations: what was kept of each image, in the last piece.
    """

    text: str
    reason: Reason | None
    tokens: int
    allocations: tuple[Allocation, ...] = ()


Tell = Callable[[int, Piece], None]


@torch.inference_mode()
def answer_together(model: ArrCocQwen3VL, prompts: Sequence[Prompt], tell: Tell) -> None:
    """Answer prompts in one batch.

    Args:
        model: with a processor.
        prompts: any number of images each, or none.
        tell: called with the number of a prompt and a piece of its answer, as soon as there is one.

    Raises:
        ValueError: as for the model, for instance a budget beyond an image's cells.
    """
    assert model.processor is not None
    pictures = [image for prompt in prompts for image in prompt.images]
    batch: dict[str, Any] = batch_rows(
        model.processor, [prompt.row for prompt in prompts], pictures
    )
    choosing = _EachItsBudget(model.arr_coc, [p.budget for p in prompts if p.images])
    writers = [
        AnswerWriter(model.processor.tokenizer, set(model.end_tokens), p.max_tokens, p.stop)
        for p in prompts
    ]

    def step(tokens: list[int]) -> list[bool]:
        kept = iter(choosing.chosen)
        late = time.monotonic()
        for number, (prompt, writer) in enumerate(zip(prompts, writers, strict=True)):
            own = next(kept) if prompt.images else ()
            if writer.reason is not None:
                continue
            text = writer.push(tokens[number])
            if writer.reason is None and late > prompt.deadline:
                text += writer.end("timeout")
            if text or writer.reason:
                done = own if writer.reason else ()
                tell(number, Piece(text, writer.reason, writer.tokens, done))
        return [writer.reason is not None for writer in writers]

    drawn = [_Draw(p.temperature, p.top_p, p.seed) if p.temperature else None for p in prompts]
    model.generate(
        **{key: value.to(model.backbone.device) for key, value in batch.items()},
        selector=cast("Selector", choosing),  # its allocator is a method
        max_new_tokens=max(prompt.max_tokens for prompt in prompts),
        do_sample=False,
        logits_processor=LogitsProcessorList([_Drawing(drawn)] if any(drawn) else []),
        stopping_criteria=StoppingCriteriaList([_EachItsEnd(step)]),
    )


class _EachItsBudget:
    """Chooses as another selector does, for each sample by a budget of its own.

    Samples with images are spent for one after the other, in their order.
    """

    def __init__(self, selector: Selector, budgets: Sequence[int | float | None]) -> None:
        self._selector, self._budgets = selector, iter(budgets)
        self.chosen: list[tuple[Allocation, ...]] = []

    def __call__(self, *asked: Any) -> Any:
        return self._selector(*asked)

    def allocator(self, found: Sequence[ImageRelevance], _: Any = None) -> list[Allocation]:
        kept: list[Allocation] = self._selector.allocator(found, next(self._budgets))
        self.chosen.append(tuple(one._replace(**_on_cpu(one)) for one in kept))
        return kept


def _on_cpu(allocation: Allocation) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in allocation._asdict().items()}


class _EachItsEnd(StoppingCriteria):
    """Sees every token as it is chosen, and says which answers are at their end."""

    def __init__(self, step: Callable[[list[int]], list[bool]]) -> None:
        self._step = step

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        done = self._step(input_ids[:, -1].tolist())
        return torch.tensor(done, device=input_ids.device)


class _Draw:
    """Draws the next token of one answer."""

    def __init__(self, temperature: float, top_p: float, seed: int | None) -> None:
        self._temperature, self._top_p = max(temperature, COLDEST), top_p
        self._random = torch.Generator()
        self._random.seed() if seed is None else self._random.manual_seed(seed)

    def __call__(self, logits_V: Tensor) -> int:
        logits_V = (logits_V - logits_V.max()).cpu() / self._temperature
        likely_V, order_V = logits_V.softmax(-1).sort(descending=True)
        before_V = likely_V.cumsum(-1) - likely_V
        likely_V[before_V >= self._top_p] = 0  # the first one always stays
        likely_V[0] = likely_V[0].clamp_min(torch.finfo(likely_V.dtype).tiny)
        return int(order_V[torch.multinomial(likely_V, 1, generator=self._random)])


class _Drawing(LogitsProcessor):
    """Leaves one token to choose in the rows that draw; the others choose the likeliest."""

    def __init__(self, drawn: Sequence[_Draw | None]) -> None:
        self._drawn = drawn

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        for row, draw in enumerate(self._drawn):
            if draw is not None:
                token = draw(scores[row])
                scores[row] = float("-inf")
                scores[row, token] = 0
        return scores
