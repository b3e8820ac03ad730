"""The teacher answers each sample once, and never with another one's answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.nn import functional as F

from lightning_arrcoc import ArrCocModule, ArrCocQwen3VL, VqaDataModule
from lightning_arrcoc.data.digits import DigitQuestions
from lightning_arrcoc.objectives import Expected, HardChoice, SoftGates, Teacher, teacher
from lightning_arrcoc.objectives.full_tokens import answer_fully
from lightning_arrcoc.objectives.teacher import at_answers
from lightning_arrcoc.vlm.lora import add_lora, lora_parameters

ASKED = (("Which digit is red?", "7"), ("Which digit is blue?", "31"), ("How many?", "4"))
ALL = 10**6  # more than any vocabulary holds


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each full pass answered."""
    rows: list[int] = []

    def watched(model: ArrCocQwen3VL, inputs: Any) -> Any:
        rows.append(len(inputs["input_ids"]))
        return answer_fully(model, inputs)

    monkeypatch.setattr(teacher, "answer_fully", watched)
    return rows


def direct(model: ArrCocQwen3VL, batch: Any) -> torch.Tensor:
    """Log-shares of the whole vocabulary at every answer token."""
    with torch.no_grad():
        answer = answer_fully(model, batch)
    return at_answers(answer.logits, answer.labels).log_softmax(-1)


def spread(expected: Expected, vocabulary: int) -> torch.Tensor:
    """The same from what a teacher with all tokens remembered."""
    empty = torch.full((len(expected.tokens), vocabulary), -torch.inf)
    return empty.scatter(1, expected.tokens.long(), expected.log_shares)


# ------------------------------------------------------------------------------ the divergence


@pytest.mark.parametrize("top", [ALL, 50])
def test_with_the_whole_vocabulary_it_is_the_divergence_itself(top: int) -> None:
    torch.manual_seed(0)
    full, student = 3 * torch.randn(2, 4, 50)
    expected = F.kl_div(
        student.log_softmax(-1), full.log_softmax(-1), reduction="batchmean", log_target=True
    )
    torch.testing.assert_close(Expected.of(full, top).divergence(student), expected)


def test_with_fewer_the_others_are_one_and_it_is_never_more() -> None:
    torch.manual_seed(0)
    full, student = torch.randn(2, 5, 40)
    found = [float(Expected.of(full, top).divergence(student)) for top in (1, 3, 10, 39, 40)]
    assert found == sorted(found)
    best = full.softmax(-1).topk(3)
    coarse = [
        torch.cat([shares, 1 - shares.sum(-1, keepdim=True)], -1)
        for shares in (best.values, student.softmax(-1).gather(-1, best.indices))
    ]
    by_hand = F.kl_div(coarse[1].log(), coarse[0], reduction="batchmean")
    assert found[1] == pytest.approx(float(by_hand), abs=1e-6)


@pytest.mark.parametrize("top", [1, 8, ALL])
def test_a_student_that_agrees_has_none_and_nothing_to_learn(top: int) -> None:
    torch.manual_seed(0)
    logits = (5 * torch.randn(6, 30)).requires_grad_(True)
    divergence = Expected.of(logits.detach(), top).divergence(logits)
    assert divergence.item() == pytest.approx(0, abs=1e-6)
    divergence.backward()
    assert float(logits.grad.abs().max()) < 1e-6


@pytest.mark.parametrize("top", [2, ALL])
def test_a_sure_teacher_leaves_gradients_finite(top: int) -> None:
    full = torch.tensor([[500.0, 0.0, 0.0, -500.0]])
    student = torch.tensor([[-300.0, 0.0, 0.0, 300.0]], requires_grad=True)
    divergence = Expected.of(full, top).divergence(student)
    assert divergence.item() == pytest.approx(600)
    divergence.backward()
    assert bool(student.grad.isfinite().all())


# ------------------------------------------------------------------------------ what is remembered


def test_from_the_second_epoch_on_no_full_pass_runs(
    backbone_folder: Path, asked: list[int], tmp_path: Path
) -> None:
    module = ArrCocModule(
        ArrCocQwen3VL.from_pretrained(str(backbone_folder), budget=0.25), objective=HardChoice()
    )
    train = DigitQuestions("train", 4, canvas_px=(128, 128), digits=3, turns=2)
    data = VqaDataModule(train, batch_size=2, num_workers=0, pack_turns=True)
    trainer = pl.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, limit_val_batches=0,
        default_root_dir=tmp_path, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(module, data)
    assert trainer.global_step == 6
    assert asked == [2, 2]
    assert module.objective.teacher.full_passes == 4
    assert "divergence" not in str(module.state_dict().keys())


@pytest.mark.parametrize("pack", [False, True])
def test_what_is_remembered_is_what_was_answered(
    model: ArrCocQwen3VL, encode: Any, picture: Any, asked: list[int], pack: bool
) -> None:
    turns = ASKED if pack else ASKED[:1]
    batch = encode(([picture(0)], turns), ([picture(1), picture(2)], turns), pack=pack)
    remembering = Teacher(top=ALL)
    first, second = remembering(model, batch), remembering(model, batch)
    assert asked == [2]
    truth = direct(model, batch)
    assert torch.equal(spread(first, truth.shape[1]), truth)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


def test_packed_turns_are_answered_as_if_each_were_alone(
    model: ArrCocQwen3VL, encode: Any, picture: Any
) -> None:
    packed = Teacher(top=ALL)(model, encode(([picture(0)], ASKED), pack=True))
    single = Teacher(top=ALL)(model, encode(*(([picture(0)], [asked]) for asked in ASKED)))
    vocabulary = single.tokens.shape[1]
    torch.testing.assert_close(
        spread(packed, vocabulary), spread(single, vocabulary), atol=1e-4, rtol=1e-4
    )


def test_neighbours_padding_and_order_change_nothing_and_only_the_unknown_are_asked(
    model: ArrCocQwen3VL, encode: Any, picture: Any, asked: list[int]
) -> None:
    one, two = ([picture(0)], ASKED[:1]), ([picture(1), picture(2, (64, 64))], ASKED[1:2])
    three = ([picture(3, (160, 96))], [("Which digit is at the very top?", "5")])
    remembering = Teacher(top=ALL)
    remembering(model, encode(one))
    mixed = encode(three, two, ([], ASKED[2:]), one)
    found = remembering(model, mixed)
    assert asked == [1, 3]
    truth = direct(model, mixed)
    torch.testing.assert_close(spread(found, truth.shape[1]), truth, atol=1e-4, rtol=1e-4)


def test_a_sample_that_a_batch_holds_twice_is_asked_once(
    model: ArrCocQwen3VL, encode: Any, picture: Any, asked: list[int]
) -> None:
    row = ([picture(0)], ASKED[:1])
    found = Teacher()(model, encode(row, row))
    assert asked == [1]
    assert torch.equal(
        found.tokens[: len(found.tokens) // 2], found.tokens[len(found.tokens) // 2 :]
    )


def flip_a_pixel(model: ArrCocQwen3VL, batch: dict[str, Any]) -> None:
    batch["pixel_values"][-1, -1] += 1 / 255


def turn_the_image(model: ArrCocQwen3VL, batch: dict[str, Any]) -> None:
    """The same numbers as an image of another shape."""
    batch["image_grid_thw"] = batch["image_grid_thw"][:, [0, 2, 1]]


def ask_differently(model: ArrCocQwen3VL, batch: dict[str, Any]) -> None:
    batch["input_ids"][0, -8] += 1


def answer_differently(model: ArrCocQwen3VL, batch: dict[str, Any]) -> None:
    place = (batch["labels"][0] != -100).nonzero()[0, 0]
    batch["labels"][0, place] = -100


def change_a_weight(model: ArrCocQwen3VL, batch: dict[str, Any]) -> None:
    with torch.no_grad():
        model.backbone.model.language_model.layers[0].mlp.up_proj.weight[-1, -1] += 1e-3


@pytest.mark.parametrize(
    "change",
    [flip_a_pixel, turn_the_image, ask_differently, answer_differently, change_a_weight],
)
def test_whatever_the_answer_depends_on_makes_it_another_sample(
    model: ArrCocQwen3VL, encode: Any, picture: Any, asked: list[int], change: Any
) -> None:
    row = ([picture(0)], [("Which digit is red?", "73")])
    remembering = Teacher()
    remembering(model, encode(row))
    batch = encode(row)
    change(model, batch)
    remembering(model, batch)
    assert asked == [1, 1]


def test_memory_is_bounded_and_the_oldest_goes_first(
    model: ArrCocQwen3VL, encode: Any, picture: Any, asked: list[int]
) -> None:
    rows = [encode(([picture(seed, (64, 64))], ASKED[:1])) for seed in range(3)]
    size = Teacher(top=8)(model, rows[0]).size_bytes
    small = Teacher(top=8, cache_mib=2 * size / 2**20)
    asked.clear()
    for place in (0, 1, 0, 2):  # 2 takes the place of 1: 0 was used since
        small(model, rows[place])
    assert len(asked) == 3
    small(model, rows[0])
    assert len(asked) == 3
    small(model, rows[1])
    assert len(asked) == 4


def test_without_memory_everything_is_asked_and_answered(
    model: ArrCocQwen3VL, encode: Any, picture: Any, asked: list[int]
) -> None:
    forgetful, batch = Teacher(cache_mib=0), encode(([picture(0)], ASKED[:1]))
    first, second = forgetful(model, batch), forgetful(model, batch)
    assert asked == [1, 1]
    assert torch.equal(first.log_shares, second.log_shares)


def test_it_is_the_base_that_answers_while_adapters_learn(
    model: ArrCocQwen3VL, encode: Any, picture: Any, asked: list[int]
) -> None:
    batch = encode(([picture(0)], ASKED[:1]))
    before = Teacher(top=ALL)(model, batch)
    add_lora(model.backbone)
    remembering = Teacher(top=ALL)
    found = []
    for _ in range(2):
        with torch.no_grad():
            for parameter in lora_parameters(model.backbone).values():
                parameter.add_(0.1)
        found.append(remembering(model, batch))
    assert asked == [1, 1]  # the first by another teacher
    for expected in found:
        assert torch.equal(expected.log_shares, before.log_shares)
    assert not torch.allclose(direct(model, batch), spread(before, before.tokens.shape[1]))


def test_asking_leaves_no_gradient_and_no_graph(
    model: ArrCocQwen3VL, encode: Any, picture: Any
) -> None:
    expected = Teacher()(model, encode(([picture(0)], ASKED[:1])))
    assert not any(part.requires_grad for part in expected)


def test_a_teacher_may_be_shared(model: ArrCocQwen3VL, encode: Any, picture: Any) -> None:
    shared, batch = Teacher(), encode(([picture(0)], ASKED[:1]))
    HardChoice(teacher=shared)(model, batch, 0.0)
    SoftGates(teacher_weight=0.5, teacher=shared)(model, batch, 0.0)
    assert shared.full_passes == 1


def test_a_memory_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="top=0; expected 1 or more"):
        Teacher(top=0)
    with pytest.raises(ValueError, match="cache_mib=-1; expected 0 or more"):
        Teacher(cache_mib=-1)
