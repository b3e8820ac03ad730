"""What was seen one frame or one question ago is handed over, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from lightning_arrcoc.objectives import AttributionDistillation, SoftGates
from lightning_arrcoc.relevance import Previous, TextureGenerator, build_realizer
from lightning_arrcoc.relevance.baselines import UniformGrid
from lightning_arrcoc.vlm import ArrCocQwen3VL

MOTION, SALIENCY, RELEVANCE = 21, 22, 23
SQUARE, WIDE = (128, 128), (192, 96)


def made(folder: Path, channels: str) -> ArrCocQwen3VL:
    """A model whose every weight counts."""
    torch.manual_seed(0)
    realizer = partial(build_realizer, texture=TextureGenerator(channels))
    model = ArrCocQwen3VL.from_pretrained(str(folder), budget=0.25, arr_coc=realizer)
    with torch.no_grad():
        for parameter in model.arr_coc.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return model.eval()


@pytest.fixture
def model(backbone_folder: Path) -> ArrCocQwen3VL:
    return made(backbone_folder, "full")


@pytest.fixture
def core(backbone_folder: Path) -> ArrCocQwen3VL:
    return made(backbone_folder, "core")


def encode(
    model: ArrCocQwen3VL,
    *sizes: tuple[int, int],
    question: str = "Which digit is red?",
    inverted: bool = False,
    answers: Sequence[str] = (),
    **options: Any,
) -> Any:
    assert model.processor is not None
    ramps = [Image.radial_gradient("L").resize(size).convert("RGB") for size in sizes]
    if inverted:
        ramps = [Image.eval(ramp, lambda value: 255 - value) for ramp in ramps]
    return model.processor(
        [{"images": [ramp], "questions": [question], "answers": answers} for ramp in ramps],
        **options,
    )


def textures_of(model: ArrCocQwen3VL, call: Any, **batch: Any) -> list[Tensor]:
    """Textures that a call measures, in the order of measuring."""
    found: list[Tensor] = []
    hook = model.arr_coc.texture.register_forward_hook(lambda _m, _i, out: found.extend(out))
    try:
        call(**batch)
    finally:
        hook.remove()
    return found


@pytest.fixture(params=["forward", "generate"])
def ask(request: pytest.FixtureRequest, model: ArrCocQwen3VL) -> Any:
    if request.param == "forward":
        return torch.no_grad()(model.forward)
    return partial(model.generate, max_new_tokens=1)


def test_a_second_question_knows_what_the_first_found(model: ArrCocQwen3VL, ask: Any) -> None:
    first = ask(**encode(model, SQUARE, WIDE))
    again = encode(model, SQUARE, WIDE, question="How many digits are there?")
    found = textures_of(model, ask, **again, previous=first.seen)
    for textures, allocation in zip(found, first.allocation, strict=True):
        assert not textures[MOTION].any(), "the picture is the same"
        assert textures[SALIENCY].equal(textures[model.arr_coc.texture.index("saliency")])
        assert textures[RELEVANCE].equal(allocation.relevance)
    plain = ask(**again)
    told = ask(**again, previous=first.seen)
    assert not torch.equal(plain.allocation[0].relevance, told.allocation[0].relevance)


def test_the_next_frame_knows_what_moved(model: ArrCocQwen3VL, ask: Any) -> None:
    first = ask(**encode(model, SQUARE))
    (textures,) = textures_of(
        model, ask, **encode(model, SQUARE, inverted=True), previous=first.seen
    )
    assert textures[MOTION].max() > 0.3
    assert not textures[SALIENCY].equal(textures[model.arr_coc.texture.index("saliency")])


def test_frames_follow_each_other_with_what_came_out_alone(model: ArrCocQwen3VL) -> None:
    seen = None
    for turn in range(3):
        output = model.generate(
            **encode(model, SQUARE, inverted=bool(turn % 2)), previous=seen, max_new_tokens=1
        )
        seen = output.seen
    assert seen is not None
    assert seen[0] is not None
    assert seen[0].relevance is not None
    assert seen[0].relevance.shape == (4, 4)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_neighbour_that_is_new_is_unaffected(model: ArrCocQwen3VL, ask: Any, place: int) -> None:
    batch = encode(model, SQUARE, SQUARE, WIDE)
    seen = ask(**encode(model, SQUARE, SQUARE, WIDE, inverted=True)).seen
    known = [entry if i == place else None for i, entry in enumerate(seen)]
    plain, told = ask(**batch), ask(**batch, previous=known)
    for i in range(3):
        same = torch.equal(plain.allocation[i].relevance, told.allocation[i].relevance)
        assert same == (i != place)


def test_nothing_seen_before_changes_nothing(model: ArrCocQwen3VL) -> None:
    batch = encode(model, SQUARE, WIDE)
    plain = model(**batch)
    for nothing in (None, [], [None, None], [Previous(), Previous()]):
        assert torch.equal(model(**batch, previous=nothing).logits, plain.logits)


def test_what_was_seen_may_have_been_kept_elsewhere_and_in_half(model: ArrCocQwen3VL) -> None:
    batch = encode(model, SQUARE)
    (seen,) = model(**batch).seen
    halved = Previous(*(values.half() for values in seen))
    (textures,) = textures_of(model, model, **batch, previous=[halved])
    torch.testing.assert_close(textures[RELEVANCE], seen.relevance, atol=1e-3, rtol=0)


# ---------------------------------------------------------------------- models without memory


def test_core_textures_see_nothing_to_hand_over_and_take_that(core: ArrCocQwen3VL) -> None:
    batch = encode(core, SQUARE)
    first = core(**batch)
    assert first.seen == [None]
    assert torch.equal(core(**batch, previous=first.seen).logits, first.logits)


def test_core_textures_refuse_what_they_have_no_channel_for(
    core: ArrCocQwen3VL, model: ArrCocQwen3VL
) -> None:
    batch = encode(core, SQUARE)
    with pytest.raises(ValueError, match=r"no texture channel tells of it.*channels=full"):
        core(**batch, previous=model(**batch).seen)


def test_other_selectors_take_it_and_do_not_mind(model: ArrCocQwen3VL) -> None:
    batch = encode(model, SQUARE)
    seen = model(**batch).seen
    plain = model(**batch, selector=UniformGrid())
    told = model(**batch, selector=UniformGrid(), previous=seen)
    assert torch.equal(plain.logits, told.logits)
    assert told.seen == [None]


# ------------------------------------------------------------------------------------ training


def test_packed_turns_are_told_too(model: ArrCocQwen3VL) -> None:
    batch = encode(model, SQUARE, WIDE, answers=["7"], pack=True)
    seen = model(**encode(model, SQUARE, WIDE, inverted=True)).seen
    found = textures_of(model, model.ask_turns, **batch, previous=seen)
    assert all(textures[MOTION].any() for textures in found)
    plain, told = model.ask_turns(**batch), model.ask_turns(**batch, previous=seen)
    assert not torch.equal(plain[0].found[0].logits, told[0].found[0].logits)


@pytest.mark.parametrize("objective", [AttributionDistillation(), SoftGates()])
def test_an_objective_teaches_what_the_turn_before_means(
    model: ArrCocQwen3VL, objective: Any
) -> None:
    model.backbone.requires_grad_(False)
    batch = encode(model, SQUARE, answers=["7"])
    batch["previous"] = model(**encode(model, SQUARE, inverted=True)).seen
    objective(model, batch, 0.5).loss.backward()
    first = model.arr_coc.knowing.persp_scorer.residual[0].weight
    assert first.grad[:, [MOTION, SALIENCY, RELEVANCE]].abs().amax((0, 2, 3)).min() > 0


# ----------------------------------------------------------------------------------- bad input


def test_an_image_of_another_size_is_refused(model: ArrCocQwen3VL, ask: Any) -> None:
    seen = ask(**encode(model, WIDE)).seen
    with pytest.raises(ValueError, match=r"previous\.images has shape .*Start anew"):
        ask(**encode(model, SQUARE), previous=seen)


def test_what_is_not_one_for_each_image_is_refused(model: ArrCocQwen3VL, ask: Any) -> None:
    batch = encode(model, SQUARE, SQUARE)
    seen = ask(**batch).seen
    with pytest.raises(ValueError, match="previous holds 1 entries for 2 images"):
        ask(**batch, previous=seen[:1])


def test_anything_else_that_came_out_is_refused(model: ArrCocQwen3VL, ask: Any) -> None:
    batch = encode(model, SQUARE)
    output = ask(**batch)
    for wrong in (output, output.allocation, output.seen[0]):
        with pytest.raises(TypeError, match=r"previous\[0\] is a .*expected `seen`"):
            ask(**batch, previous=wrong)


def test_textures_made_before_are_refused_beside_it(model: ArrCocQwen3VL, ask: Any) -> None:
    batch = encode(model, SQUARE)
    textures = textures_of(model, ask, **batch)
    seen = ask(**batch, textures=textures).seen
    with pytest.raises(ValueError, match="Leave one of them out"):
        ask(**batch, textures=textures, previous=seen)
