"""Conversations become tensors with exactly the right tokens marked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lightning_arrcoc.vlm import ChatProcessor


@pytest.fixture(scope="module")
def processor(backbone_folder: Path) -> ChatProcessor:
    return ChatProcessor.from_pretrained(backbone_folder)


def talk(*turns: tuple[str, str] | tuple[str], images: int = 1, size: int = 64) -> Any:
    return {
        "images": [Image.new("RGB", (size, size))] * images,
        "questions": [turn[0] for turn in turns],
        "answers": [turn[1] for turn in turns if len(turn) == 2],
    }


def words(processor: ChatProcessor, batch: Any, row: int, mask: torch.Tensor) -> str:
    return str(processor.tokenizer.decode(batch["input_ids"][row][mask[row]]))


def test_labels_are_the_answers_and_their_ends_alone(processor: ChatProcessor) -> None:
    batch = processor([talk(("Which digit is red?", "7"), ("And the blue one?", "no idea"))])
    labelled = batch["labels"] != -100
    assert words(processor, batch, 0, labelled) == "7<|im_end|>no idea<|im_end|>"
    assert torch.equal(batch["labels"][labelled], batch["input_ids"][labelled])


def test_the_query_is_the_only_question(processor: ChatProcessor) -> None:
    batch = processor([talk(("Which digit is red?", "7"))])
    assert words(processor, batch, 0, batch["query_mask"]) == "Which digit is red?"


def test_the_query_of_a_prompt_is_its_last_question(processor: ChatProcessor) -> None:
    batch = processor([talk(("Which digit is red?", "7"), ("Which digit is blue?",))])
    assert words(processor, batch, 0, batch["query_mask"]) == "Which digit is blue?"


def test_several_answered_turns_ask_no_single_question(processor: ChatProcessor) -> None:
    batch = processor([talk(("Which digit is red?", "7"), ("Which digit is blue?", "1"))])
    assert not batch["query_mask"].any()


def test_the_query_never_holds_an_answer_that_repeats_the_question(
    processor: ChatProcessor,
) -> None:
    batch = processor([talk(("red?", "red?"))])
    assert int(batch["query_mask"].sum()) == len(processor.tokenizer("red?")["input_ids"])
    assert not (batch["query_mask"] & (batch["labels"] != -100)).any()


def test_a_question_that_repeats_the_template_is_found_in_its_own_turn(
    processor: ChatProcessor,
) -> None:
    batch = processor([talk(("user",))])
    position = int(batch["query_mask"][0].nonzero()[0])
    assert int(batch["query_mask"].sum()) == 1
    before = processor.tokenizer.decode(batch["input_ids"][0][:position])
    assert before.endswith("<|vision_end|>")


def test_each_image_gets_one_placeholder_a_cell(processor: ChatProcessor) -> None:
    batch = processor([talk(("a", "b"), images=2, size=96), talk(("a", "b"), images=0)])
    image_token = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert (batch["input_ids"] == image_token).sum(1).tolist() == [2 * 9, 0]
    assert batch["image_grid_thw"].tolist() == [[1, 6, 6], [1, 6, 6]]
    assert batch["pixel_values"].shape == (2 * 36, 1536)


@pytest.mark.parametrize(("side", "edge"), [("left", 0), ("right", -1)])
def test_rows_are_padded_on_the_side_asked_for(
    processor: ChatProcessor, side: str, edge: int
) -> None:
    short, long = talk(("a", "b")), talk(("a much longer question?", "b"))
    batch = processor([short, long], padding_side=side)
    assert batch["attention_mask"][:, edge].tolist() == [0, 1]
    assert batch["input_ids"][0, edge] == processor.tokenizer.pad_token_id
    assert batch["labels"][0, edge] == -100
    assert not batch["query_mask"][0, edge]


def test_a_batch_without_images_has_no_pixels(processor: ChatProcessor) -> None:
    assert "pixel_values" not in processor([talk(("a", "b"), images=0)])


def test_pixel_limits_resize_the_image(backbone_folder: Path) -> None:
    small = ChatProcessor.from_pretrained(backbone_folder, max_pixels=64 * 64)
    batch = small([talk(("a", "b"), size=256)])
    assert batch["image_grid_thw"].tolist() == [[1, 4, 4]]


@pytest.mark.parametrize("size", [(40, 40), (700, 90), (33, 500), (1000, 1000)])
def test_an_image_of_any_size_keeps_within_the_limits(
    size: tuple[int, int], backbone_folder: Path
) -> None:
    least, most = 64 * 64, 160 * 160
    limited = ChatProcessor.from_pretrained(backbone_folder, min_pixels=least, max_pixels=most)
    picture = {"images": [Image.new("RGB", size)], "questions": ["a"], "answers": ["b"]}
    ((_, rows, columns),) = limited([picture])["image_grid_thw"].tolist()
    assert least <= rows * columns * 16 * 16 <= most


@pytest.mark.parametrize(
    ("least", "most"), [(0, None), (-1, None), (9999, 2048), (None, 1023), (None, -1)]
)
def test_limits_that_no_image_fits_are_refused(
    least: int | None, most: int | None, backbone_folder: Path
) -> None:
    with pytest.raises(ValueError, match=r"expected 1 <= min_pixels <= max_pixels"):
        ChatProcessor.from_pretrained(backbone_folder, min_pixels=least, max_pixels=most)


def test_questions_cannot_smuggle_image_placeholders(processor: ChatProcessor) -> None:
    with pytest.raises(ValueError, match="must not contain"):
        processor([talk(("<|image_pad|>", "b"))])


# ------------------------------------------------------------------------------- a mixed batch


def pictures(*sizes: tuple[int, int]) -> list[Image.Image]:
    """One colour each, so that none is taken for another."""
    return [Image.new("RGB", size, (60 * i, 255 - 60 * i, 90)) for i, size in enumerate(sizes)]


WIDE, TALL, SMALL = (128, 64), (64, 160), (64, 64)
MIXED: Any = [
    {"images": pictures(WIDE, TALL), "questions": ["Which is wider?"], "answers": ["the first"]},
    {"images": [], "questions": ["Who asks?", "Who answers?"], "answers": ["you", "I"]},
    {"images": pictures(SMALL), "questions": ["What is it?"], "answers": ["green"]},
]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_mixed_batch_reads_as_the_chat_template_says(processor: ChatProcessor, side: str) -> None:
    """Several images of different sizes, none, and one: every token is where it belongs."""
    batch = processor(MIXED, padding_side=side)
    for row, conversation in enumerate(MIXED):
        messages: list[dict[str, Any]] = []
        turns = zip(conversation["questions"], conversation["answers"], strict=True)
        for number, (question, answer) in enumerate(turns):
            shown = [{"type": "image"} for _ in conversation["images"] if number == 0]
            messages.append(
                {"role": "user", "content": [*shown, {"type": "text", "text": question}]}
            )
            messages.append({"role": "assistant", "content": answer})
        template = processor.tokenizer.apply_chat_template(messages, tokenize=False)
        real = batch["attention_mask"][row].bool()
        text = processor.tokenizer.decode(batch["input_ids"][row][real])
        cells = [image.width * image.height // 32**2 for image in conversation["images"]]
        for count in cells:
            template = template.replace("<|image_pad|>", "<|cell|>" * count, 1)
        assert text == template.replace("<|cell|>", "<|image_pad|>")


def test_a_mixed_batch_learns_its_answers_and_asks_its_questions(processor: ChatProcessor) -> None:
    batch = processor(MIXED)
    answers = [words(processor, batch, row, batch["labels"] != -100) for row in range(3)]
    assert answers == ["the first<|im_end|>", "you<|im_end|>I<|im_end|>", "green<|im_end|>"]
    asked = [words(processor, batch, row, batch["query_mask"]) for row in range(3)]
    assert asked == ["Which is wider?", "", "What is it?"]


def test_images_come_in_the_order_of_samples_each_as_if_alone(processor: ChatProcessor) -> None:
    batch = processor(MIXED)
    alone = [
        processor([{"images": [image], "questions": ["?"], "answers": []}])
        for conversation in MIXED
        for image in conversation["images"]
    ]
    assert batch["image_grid_thw"].tolist() == [[1, 4, 8], [1, 10, 4], [1, 4, 4]]
    assert torch.equal(batch["pixel_values"], torch.cat([one["pixel_values"] for one in alone]))


def test_packed_turns_ask_and_answer_each_for_itself_in_a_mixed_batch(
    processor: ChatProcessor,
) -> None:
    batch = processor(MIXED, pack=True)
    for row, conversation in enumerate(MIXED):
        for turn, question in enumerate(conversation["questions"], start=1):
            own = batch["turns"] == turn
            answer = conversation["answers"][turn - 1]
            assert words(processor, batch, row, own & batch["query_mask"]) == question
            labelled = own & (batch["labels"] != -100)
            assert words(processor, batch, row, labelled) == f"{answer}<|im_end|>"
        image_token = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        shared = batch["turns"][row][batch["input_ids"][row] == image_token]
        assert (shared == 0).all(), "every turn sees the images"


def test_a_prompt_ends_where_the_answer_begins(processor: ChatProcessor) -> None:
    """Padded on the left, so that generation goes on from the last token of every row."""
    prompts = [one | {"answers": one["answers"][:-1]} for one in MIXED]
    prompt, whole = processor(prompts), processor(MIXED)
    assert prompt["attention_mask"][:, -1].tolist() == [1, 1, 1]
    for row in range(3):
        asked = prompt["input_ids"][row][prompt["attention_mask"][row].bool()]
        told = whole["input_ids"][row][whole["attention_mask"][row].bool()]
        assert torch.equal(asked, told[: len(asked)])
        answer = processor.tokenizer.decode(told[len(asked) :])
        assert answer == f"{MIXED[row]['answers'][-1]}<|im_end|>\n"


# --------------------------------------------------------------------------- what is refused


def test_an_unknown_padding_side_is_refused(processor: ChatProcessor) -> None:
    with pytest.raises(ValueError, match="'left' or 'right'"):
        processor([talk(("a", "b"))], padding_side="middle")


def test_a_template_that_rewrites_earlier_turns_is_refused(backbone_folder: Path) -> None:
    processor = ChatProcessor.from_pretrained(backbone_folder)
    processor.tokenizer.chat_template = "{{ messages | length }}{{ messages[-1].content }}"
    with pytest.raises(ValueError, match="rewrites earlier turns"):
        processor([talk(("a", "b"))])


def test_a_tokenizer_without_a_template_is_refused(backbone_folder: Path) -> None:
    processor = ChatProcessor.from_pretrained(backbone_folder)
    processor.tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        ChatProcessor(processor.tokenizer, processor.image_processor)


def test_the_processor_survives_a_round_trip(processor: ChatProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    again = ChatProcessor.from_pretrained(tmp_path)
    conversation = [talk(("Which digit is red?", "7"))]
    for key, value in processor(conversation).items():
        assert torch.equal(again(conversation)[key], value)
