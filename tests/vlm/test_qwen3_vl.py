"""The model's own contract: inputs, gradients, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from lightning_arrcoc.vlm import ArrCocQwen3VL

IMAGE_KEYS = ("pixel_values", "image_grid_thw")
QUESTION = "Which digit is red?"
STEP = 1e-3  # small enough to stay on one side of the best-match maximum


@pytest.fixture
def model(backbone_folder: Path) -> ArrCocQwen3VL:
    torch.manual_seed(0)
    made = ArrCocQwen3VL.from_pretrained(str(backbone_folder), budget=0.25)
    made.backbone.requires_grad_(False)
    return made


def encode(model: ArrCocQwen3VL, *sizes: int, answered: bool = True) -> Any:
    assert model.processor is not None
    ramps = [Image.radial_gradient("L").resize((size, size)).convert("RGB") for size in sizes]
    return model.processor(
        [
            {"images": [ramp], "questions": [QUESTION], "answers": ["7"] if answered else []}
            for ramp in ramps
        ]
    )


def disturb(model: ArrCocQwen3VL) -> None:
    """Move every weight a little, so that no gradient is zero by the zero start."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.arr_coc.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("options", [{"soft_sharpness": 2.0}, {"straight_through": True}])
@pytest.mark.parametrize("select", ["before_vision", "after_vision"])
def test_gradient_reaches_every_scorer_and_the_policy(
    model: ArrCocQwen3VL, options: dict[str, Any], select: Any
) -> None:
    model.select = select
    disturb(model)
    model(**encode(model, 128, 192), **options).loss.backward()
    silent = [
        name
        for name, parameter in model.arr_coc.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().max() > 0
    ]
    assert silent == ["null_query"]  # nobody asked nothing


def test_the_null_query_learns_where_nothing_is_asked(model: ArrCocQwen3VL) -> None:
    disturb(model)
    batch = encode(model, 128)
    batch["query_mask"] = torch.zeros_like(batch["query_mask"])
    model(**batch, soft_sharpness=2.0).loss.backward()
    assert model.arr_coc.null_query.grad is not None
    assert model.arr_coc.null_query.grad.abs().max() > 0


@pytest.mark.parametrize(
    "name",
    [
        "knowing.info_scorer.residual.2.weight",
        "knowing.persp_scorer.residual.2.weight",
        "knowing.partic_scorer.cells.4.weight",
        "knowing.partic_scorer.tokens.2.weight",
        "balancer.policy_net.2.weight",
    ],
)
def test_soft_gradients_equal_finite_differences(backbone_folder: Path, name: str) -> None:
    torch.manual_seed(0)
    model = ArrCocQwen3VL.from_pretrained(str(backbone_folder), dtype=torch.float64)
    disturb(model)
    batch = encode(model, 128)
    parameter = dict(model.arr_coc.named_parameters())[name]
    model(**batch, soft_sharpness=1.0).loss.backward()
    assert parameter.grad is not None
    direction = parameter.grad / parameter.grad.norm()
    losses = []
    with torch.no_grad():
        for sign in (1, -1):
            parameter.add_(sign * STEP * direction)
            losses.append(model(**batch, soft_sharpness=1.0).loss)
            parameter.sub_(sign * STEP * direction)
    slope = (losses[0] - losses[1]) / (2 * STEP)
    torch.testing.assert_close(slope, parameter.grad.norm(), rtol=0.02, atol=1e-6)


def test_the_frozen_backbone_gets_no_gradient(model: ArrCocQwen3VL) -> None:
    model(**encode(model, 128), soft_sharpness=1.0).loss.backward()
    assert all(parameter.grad is None for parameter in model.backbone.parameters())


def test_the_straight_through_gate_leaves_the_answer_as_it_is(model: ArrCocQwen3VL) -> None:
    disturb(model)
    batch = encode(model, 128)
    with torch.no_grad():
        gated, plain = model(**batch, straight_through=True), model(**batch)
    assert torch.equal(gated.logits, plain.logits)


@pytest.mark.parametrize(("budget", "kept"), [(0.25, 4), (1, 1), (16, 16), (1.0, 16), (0.001, 1)])
def test_the_budget_is_spent_exactly(model: ArrCocQwen3VL, budget: Any, kept: int) -> None:
    model.budget = budget
    output = model(**encode(model, 128))
    assert len(output.allocation[0].levels) == kept
    assert int((output.labels[0] != -100).sum()) == 2  # "7" and the end of the turn


@pytest.mark.parametrize("budget", [0, -1, 0.0, 1.5, True, float("nan"), "0.1"])
def test_a_budget_that_is_none_is_refused(model: ArrCocQwen3VL, budget: Any) -> None:
    with pytest.raises(ValueError, match="expected a number of tokens"):
        model.budget = budget


def test_a_budget_beyond_the_image_is_refused(model: ArrCocQwen3VL) -> None:
    with pytest.raises(ValueError, match=r"budget=17, but this sample has 16 visual tokens"):
        model(**encode(model, 128), budget=17)


def test_generation_keeps_the_prompt_whole(model: ArrCocQwen3VL) -> None:
    batch = encode(model, 128, answered=False)
    output = model.generate(**batch, max_new_tokens=3, eos_token_id=None)
    length = batch["input_ids"].shape[1]
    assert torch.equal(output.sequences[:, :length], batch["input_ids"])
    assert output.sequences.shape[1] == length + 3
    assert len(output.allocation[0].levels) == 4


def test_generation_returns_several_sequences(model: ArrCocQwen3VL) -> None:
    batch = encode(model, 128, 128, answered=False)
    output = model.generate(**batch, max_new_tokens=2, num_beams=3, num_return_sequences=2)
    assert len(output.sequences) == 4


def test_prompts_padded_on_the_right_are_refused(model: ArrCocQwen3VL) -> None:
    batch = encode(model, 128, answered=False)
    batch["attention_mask"][:, -1] = 0
    with pytest.raises(ValueError, match="pad on the left"):
        model.generate(**batch)


def test_textures_made_before_answer_alike(model: ArrCocQwen3VL) -> None:
    batch = encode(model, 128, 192)
    seen: list[Tensor] = []
    hook = model.arr_coc.texture.register_forward_hook(lambda _m, _i, out: seen.extend(out))
    first = model(**batch)
    hook.remove()
    second = model(**batch, textures=seen)
    assert torch.equal(first.logits, second.logits)


def test_the_question_is_found_without_a_mask(model: ArrCocQwen3VL) -> None:
    disturb(model)
    batch = encode(model, 128, 192, answered=False)
    marked = model(**batch)
    batch.pop("query_mask")
    found = model(**batch)
    assert torch.equal(marked.logits, found.logits)


def test_the_question_decides_what_is_kept(model: ArrCocQwen3VL) -> None:
    disturb(model)
    batch = encode(model, 192)
    nothing_asked = batch | {"query_mask": torch.zeros_like(batch["query_mask"])}
    asked, silent = model(**batch), model(**nothing_asked)
    assert not torch.equal(asked.allocation[0].relevance, silent.allocation[0].relevance)


def test_the_answer_never_leaks_into_the_choice(model: ArrCocQwen3VL) -> None:
    disturb(model)
    with_answer, without = encode(model, 192), encode(model, 192, answered=False)
    for key in ("query_mask", None):
        if key is None:
            with_answer.pop("query_mask")
            without.pop("query_mask")
        one, other = model(**with_answer), model(**without)
        assert torch.equal(one.allocation[0].relevance, other.allocation[0].relevance)


@pytest.mark.parametrize("key", ["pixel_values_videos", "video_grid_thw"])
def test_video_is_refused(model: ArrCocQwen3VL, key: str) -> None:
    batch = encode(model, 128) | {key: torch.zeros(1, 3)}
    with pytest.raises(ValueError, match="Video is not supported yet"):
        model(**batch)
    with pytest.raises(ValueError, match="Video is not supported yet"):
        model.generate(**batch)


def test_several_frames_are_refused(model: ArrCocQwen3VL) -> None:
    batch = encode(model, 128)
    batch["image_grid_thw"] = torch.tensor([[2, 8, 4]])
    with pytest.raises(ValueError, match="video is not supported yet"):
        model(**batch)


def test_images_that_do_not_match_the_text_are_refused(model: ArrCocQwen3VL) -> None:
    batch = encode(model, 128) | {
        key: value
        for key, value in encode(model, 192).items()
        if key in ("pixel_values", "image_grid_thw")
    }
    with pytest.raises(ValueError, match=r"\[16\] image tokens a row, but the images have \[36\]"):
        model(**batch)


@pytest.mark.parametrize(
    "lost", [["pixel_values"], ["image_grid_thw"], ["pixel_values", "image_grid_thw"]]
)
def test_an_image_that_is_lost_on_the_way_is_refused(model: ArrCocQwen3VL, lost: list[str]) -> None:
    batch = {k: v for k, v in encode(model, 128, answered=False).items() if k not in lost}
    with pytest.raises(ValueError, match=r"belong together|no pixel_values"):
        model(**batch)
    with pytest.raises(ValueError, match=r"belong together|no pixel_values"):
        model.generate(**batch)


def test_a_soft_batch_with_padding_stays_finite_under_autocast(model: ArrCocQwen3VL) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**encode(model, 128, 192), soft_sharpness=1.0)
    assert output.logits.isfinite().all()


def test_an_unknown_select_is_refused(backbone_folder: Path) -> None:
    with pytest.raises(ValueError, match="before_vision' or 'after_vision"):
        ArrCocQwen3VL.from_pretrained(str(backbone_folder), select="sideways")  # type: ignore[arg-type]


def test_flash_attention_cannot_train_softly(model: ArrCocQwen3VL) -> None:
    model.backbone.config.text_config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="attn_implementation='sdpa'"):
        model(**encode(model, 128), soft_sharpness=1.0)


def test_names_in_the_state_are_the_promised_ones(model: ArrCocQwen3VL) -> None:
    state = model.state_dict()
    channels = model.arr_coc.texture.out_channels
    assert state["arr_coc.knowing.info_scorer.residual.0.weight"].shape == (256, channels)
    assert "arr_coc.balancer.policy_net.0.weight" in state
    assert model.arr_coc.allocator.num_positions == 0.25
