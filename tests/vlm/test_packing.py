"""Packed questions are answered exactly as each would be alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import Qwen3VLForConditionalGeneration

from lightning_arrcoc.vlm import ChatProcessor
from lightning_arrcoc.vlm.loading import load_backbone
from lightning_arrcoc.vlm.packing import forward_packed, packed_mask, tokens_between, turns_of

TURNS = (("Which digit is red?", "7"), ("How many?", "3"), ("Is the blue one greater?", "yes"))


@pytest.fixture(scope="module")
def processor(backbone_folder: Path) -> ChatProcessor:
    return ChatProcessor.from_pretrained(backbone_folder)


@pytest.fixture(scope="module")
def backbone(backbone_folder: Path) -> Qwen3VLForConditionalGeneration:
    return load_backbone(str(backbone_folder), dtype=torch.float32)


def picture(seed: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    pixels = torch.randint(256, (size[1], size[0], 3), generator=torch.manual_seed(seed))
    return Image.fromarray(pixels.to(torch.uint8).numpy())


def talk(turns: Any, images: Any) -> Any:
    return {
        "images": images,
        "questions": [question for question, _ in turns],
        "answers": [answer for _, answer in turns],
    }


def packed(backbone: Qwen3VLForConditionalGeneration, batch: Any, **options: Any) -> Any:
    unused = ("attention_mask", "query_mask")
    inputs = {key: value for key, value in batch.items() if key not in unused}
    with torch.no_grad():
        return forward_packed(backbone, **inputs, **options)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("images", [1, 2])
def test_each_turn_is_answered_as_if_it_were_alone(
    processor: ChatProcessor,
    backbone: Qwen3VLForConditionalGeneration,
    side: str,
    images: int,
) -> None:
    pictures = [picture(i) for i in range(images)]
    larger = [picture(9, (128, 96))] * images
    asked = [(TURNS, pictures), (TURNS[:2], larger)]
    together = processor(
        [talk(turns, shown) for turns, shown in asked], padding_side=side, pack=True
    )
    assert (together["turns"] == -1).any(), "a row is padded"
    logits = packed(backbone, together).logits[together["labels"] != -100]
    alone = []
    for turn, shown in [(turn, shown) for turns, shown in asked for turn in turns]:
        single = processor([talk([turn], shown)])
        with torch.no_grad():
            output = backbone(
                **{
                    key: value
                    for key, value in single.items()
                    if key not in ("query_mask", "labels")
                },
                mm_token_type_ids=(single["input_ids"] == backbone.config.image_token_id).int(),
            )
        alone.append(output.logits[0][single["labels"][0] != -100])
    torch.testing.assert_close(logits, torch.cat(alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("part", "broken"),
    [
        ("packed_mask", lambda turns, dtype: packed_mask(turns.clamp(max=0), dtype)),
        ("tokens_between", torch.zeros_like),
    ],
    ids=["turns see each other", "turns begin where they stand"],
)
def test_a_fault_in_packing_is_noticed(
    processor: ChatProcessor,
    backbone: Qwen3VLForConditionalGeneration,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    broken: Any,
) -> None:
    batch = processor([talk(TURNS, [picture(0)])], pack=True)
    right = packed(backbone, batch).logits
    monkeypatch.setattr(f"lightning_arrcoc.vlm.packing.{part}", broken)
    wrong = packed(backbone, batch).logits
    last = batch["turns"][0] == len(TURNS)
    assert float((right - wrong)[0][last].abs().max()) > 1e-2


def test_every_turn_begins_where_the_first_does() -> None:
    turns = torch.tensor([[-1, 0, 0, 1, 1, 2, 3, 3], [0, 1, 2, 2, 2, 3, -1, -1]])
    assert tokens_between(turns).tolist() == [[0, 0, 0, 0, 0, 2, 3, 3], [0, 0, 1, 1, 1, 4, 0, 0]]


def test_a_turn_sees_the_shared_tokens_and_itself() -> None:
    mask = packed_mask(torch.tensor([[-1, 0, 1, 2, 2]]), torch.float32)[0, 0]
    assert (mask == 0).int().tolist() == [
        [0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 1, 1, 0, 0],
        [0, 1, 0, 1, 0],
        [0, 1, 0, 1, 1],
    ]
    assert bool(mask.isfinite().all())


def test_the_loss_is_that_of_all_answers(
    processor: ChatProcessor, backbone: Qwen3VLForConditionalGeneration
) -> None:
    batch = processor([talk(TURNS, [picture(0)])], pack=True)
    output = packed(backbone, batch)
    targets = batch["labels"][:, 1:].flatten()
    expected = torch.nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), targets)
    torch.testing.assert_close(output.loss, expected)


def test_an_unanswered_turn_is_refused(processor: ChatProcessor) -> None:
    prompt = {"images": [picture(0)], "questions": ["a", "b"], "answers": ["1"]}
    with pytest.raises(ValueError, match="shorter"):
        processor([prompt], pack=True)


def test_every_turn_marks_its_own_question(processor: ChatProcessor) -> None:
    batch = processor([talk(TURNS, [picture(0)])], pack=True)
    for turn, (question, _) in enumerate(TURNS, start=1):
        marked = batch["query_mask"][0] & (batch["turns"][0] == turn)
        assert processor.tokenizer.decode(batch["input_ids"][0][marked]) == question


def test_what_is_hidden_from_a_turn_is_hidden_from_it_alone(
    processor: ChatProcessor, backbone: Qwen3VLForConditionalGeneration
) -> None:
    """A closed key does for a turn what a mask does for the stock model, and nothing to others."""
    batch = processor([talk(TURNS[:2], [picture(0)])], pack=True)
    visual = (batch["input_ids"][0] == backbone.config.image_token_id).nonzero()[:, 0]
    bias = torch.zeros(1, 2, batch["input_ids"].shape[1])
    assert torch.equal(
        packed(backbone, batch, key_bias=bias).logits, packed(backbone, batch).logits
    )
    bias[0, 1, visual[::2]] = -torch.inf
    hidden, plain = packed(backbone, batch, key_bias=bias).logits, packed(backbone, batch).logits
    first, second = (batch["turns"][0] == turn for turn in (1, 2))
    assert torch.equal(hidden[0][first], plain[0][first])
    assert (hidden[0][second] - plain[0][second]).abs().max() > 1e-3

    # The stock model on the second turn alone, with a mask that closes the same keys to text.
    single = processor([talk(TURNS[1:2], [picture(0)])])
    length = single["input_ids"].shape[1]
    mask = torch.zeros(length, length).masked_fill(
        ~torch.ones(length, length, dtype=torch.bool).tril(), -torch.inf
    )
    text = torch.arange(length) > visual[-1] + 1
    mask[text.nonzero(), visual[::2]] = -torch.inf
    positions, _ = backbone.model.get_rope_index(
        single["input_ids"],
        mm_token_type_ids=(single["input_ids"] == backbone.config.image_token_id).int(),
        image_grid_thw=single["image_grid_thw"],
        attention_mask=torch.ones_like(single["input_ids"]),
    )
    with torch.no_grad():
        stock = backbone(
            input_ids=single["input_ids"],
            attention_mask=mask[None, None],
            position_ids=torch.cat([torch.arange(length)[None, None], positions]),
            pixel_values=single["pixel_values"],
            image_grid_thw=single["image_grid_thw"],
            mm_token_type_ids=(single["input_ids"] == backbone.config.image_token_id).int(),
        )
    torch.testing.assert_close(
        hidden[0][second], stock.logits[0][-int(second.sum()) :], atol=1e-5, rtol=0
    )


def test_a_plain_batch_is_marked_as_one_turn_behind_its_images() -> None:
    image = 9
    ids = torch.tensor(
        [[0, 1, 9, 9, 2, 9, 3, 4], [1, 9, 9, 3, 4, 5, 0, 0], [1, 2, 3, 4, 5, 6, 7, 8]]
    )
    mask = (ids != 0).long()
    assert turns_of(ids, mask, image).tolist() == [
        [-1, 0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 1, 1, -1, -1],
        [1, 1, 1, 1, 1, 1, 1, 1],
    ]


def test_text_alone_is_packed_as_well(
    processor: ChatProcessor, backbone: Qwen3VLForConditionalGeneration
) -> None:
    batch = processor([talk(TURNS, [])], pack=True)
    assert batch["turns"][0, 0] == 1
    assert bool(packed(backbone, batch).loss.isfinite())


def test_a_question_that_names_the_markers_keeps_its_words(processor: ChatProcessor) -> None:
    odd = ("What does <|vision_end|> mean?", "7")
    batch = processor([talk([odd, odd], [picture(0)])], pack=True)
    own = [batch["input_ids"][0][batch["turns"][0] == turn].tolist() for turn in (1, 2)]
    assert own[0] == own[1]
    assert "What does" in processor.tokenizer.decode(own[0])


def test_flash_attention_is_refused(
    processor: ChatProcessor,
    backbone: Qwen3VLForConditionalGeneration,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = processor([talk(TURNS, [picture(0)])], pack=True)
    monkeypatch.setattr(
        backbone.config.text_config, "_attn_implementation", "flash_attention_2", raising=False
    )
    with pytest.raises(ValueError, match=r"Packed turns .* attn_implementation='sdpa'"):
        packed(backbone, batch)
