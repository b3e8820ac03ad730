"""One contestant's answer, measured."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from PIL import Image

from lightning_arrcoc.compare.contestants import Contestant, prepared, selector_of, told
from lightning_arrcoc.compare.errors import StoppedError
from lightning_arrcoc.compare.timing import Split
from lightning_arrcoc.compare.turns import Stop
from lightning_arrcoc.contest import decode_answers
from lightning_arrcoc.memory.peaks import Peaks
from lightning_arrcoc.relevance import Allocation, Realization
from lightning_arrcoc.relevance.allocation import token_count
from lightning_arrcoc.vlm import ArrCocQwen3VL


class Asked(NamedTuple):
    """A question about an image, the same for every contestant.

    Attributes:
        prompts: as the processor made them, on the device.
        grid: rows and columns of the image, in cells.
        budget: tokens, or a share of the cells.
        max_new_tokens: longest answer.
    """

    prompts: dict[str, Any]
    grid: tuple[int, int]
    budget: int | float
    max_new_tokens: int


def ask(
    model: ArrCocQwen3VL,
    image: Image.Image,
    question: str,
    budget: int | float,
    max_new_tokens: int,
) -> Asked:
    """Encode a question. Not for several threads at once: the tokenizer is not.

    Raises:
        ValueError: the budget is beyond the cells, or the question holds image tokens.
    """
    assert model.processor is not None
    encoded = model.processor(
        [{"images": [image.convert("RGB")], "questions": [question], "answers": []}]
    )
    merge = int(model.backbone.config.vision_config.spatial_merge_size)
    _, rows, columns = encoded["image_grid_thw"][0].tolist()
    grid = (rows // merge, columns // merge)
    token_count(budget, grid[0] * grid[1])
    device = model.backbone.device
    prompts = {key: value.to(device) for key, value in encoded.items()}
    return Asked(prompts, grid, budget, max_new_tokens)


@torch.no_grad()
def answer(
    model: ArrCocQwen3VL, name: str, asked: Asked, peaks: Peaks, stop: Stop | None
) -> Contestant:
    """Let one answer, whose weights are in place; `swap_s` is left at 0.

    Args:
        model: with these weights.
        name: of a built-in contestant, or of anyone else.
        asked: what.
        peaks: of the model's device.
        stop: asked after every token.

    Raises:
        StoppedError: `stop` said so.
    """
    selector, found = selector_of(name, model), list[Realization]()
    hook = selector.register_forward_hook(lambda _module, _inputs, out: found.append(out))
    span = peaks.span()
    base = peaks.last.allocated
    try:
        with Split(model) as split:
            shown, budget = prepared(name, asked.prompts, asked.budget, model)
            output = model.generate(
                **shown,
                budget=budget,
                selector=selector,
                max_new_tokens=asked.max_new_tokens,
                do_sample=False,
                stopping_criteria=[_stopping(stop)],
            )
    finally:
        hook.remove()
    peak = span.take().allocated
    (words,) = decode_answers(model, output, shown)
    (allocation,) = output.allocation or []
    return Contestant(
        name=name,
        answer=words,
        allocation=Allocation(*(part.cpu() for part in allocation)),
        grid=asked.grid,
        times=split.times(),
        swap_s=0.0,
        peak_bytes=peak,
        base_bytes=base,
        **told(selector, found[0]),
    )


def _stopping(stop: Stop | None) -> Any:
    """What generation asks after every token."""

    def go_on(input_ids: torch.Tensor, scores: Any, **_: Any) -> bool:
        if stop is not None and stop():
            raise StoppedError("Stopped between two tokens.")
        return False

    return go_on
