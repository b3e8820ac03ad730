"""Stages add up, and measuring leaves nothing behind."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from PIL import Image

from lightning_arrcoc import ArrCocQwen3VL
from lightning_arrcoc.compare import CheckpointComparator
from lightning_arrcoc.compare.timing import Split

SLOW_S = 0.05


def hooks_of(model: ArrCocQwen3VL) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )


def test_the_stages_are_the_whole_and_each_is_there(
    comparator: CheckpointComparator, loaded: ArrCocQwen3VL, image: Image.Image, question: str
) -> None:
    before = hooks_of(loaded)
    own, full = comparator.compare(image, question, ["core", "full"])
    assert min(own.times) > 0
    assert full.times.texture == 0
    assert min(full.times[1:]) > 0
    assert own.times.total == pytest.approx(sum(own.times))
    assert own.swap_s > full.swap_s >= 0
    assert own.peak_bytes >= own.base_bytes > 0
    assert hooks_of(loaded) == before


@pytest.mark.parametrize("stage", ["texture", "selection", "vision", "prefill", "decode"])
def test_what_makes_a_stage_slow_is_counted_there(
    loaded: ArrCocQwen3VL, image: Image.Image, question: str, stage: str
) -> None:
    assert loaded.processor is not None
    prompts: Any = loaded.processor([{"images": [image], "questions": [question], "answers": []}])
    language, calls = loaded.backbone.model.language_model, [0]
    places = {
        "texture": loaded.arr_coc.texture,
        "selection": loaded.arr_coc.knowing,
        "vision": loaded.backbone.model.visual.merger,
        "prefill": language,
        "decode": language,
    }

    def wait(*_: Any) -> None:
        calls[0] += 1
        if stage != "decode" or calls[0] > 1:
            time.sleep(SLOW_S if stage == "decode" or calls[0] == 1 else 0)

    place = places[stage]
    within = place.register_forward_hook if stage == "texture" else place.register_forward_pre_hook
    hook = within(wait)
    try:
        with torch.no_grad(), Split(loaded) as split:
            loaded.generate(**prompts, min_new_tokens=3, max_new_tokens=3, do_sample=False)
    finally:
        hook.remove()
    slowed = getattr(split.times(), stage)
    assert slowed >= SLOW_S * (2 if stage == "decode" else 1)


def test_hooks_go_after_an_exception_too(loaded: ArrCocQwen3VL) -> None:
    before = hooks_of(loaded)
    with pytest.raises(KeyError), Split(loaded):
        raise KeyError
    assert hooks_of(loaded) == before
