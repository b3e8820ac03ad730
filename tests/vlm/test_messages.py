"""Messages in tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_arrcoc.vlm.chat import ChatProcessor
from lightning_arrcoc.vlm.loading import TINY_FOLDER
from lightning_arrcoc.vlm.messages import batch_rows, encode_messages, fit_image

IMAGE = {"type": "image"}


@pytest.fixture(scope="module")
def processor() -> ChatProcessor:
    return ChatProcessor.from_pretrained(TINY_FOLDER, max_pixels=256 * 256)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    drawn = np.random.default_rng(0).integers(0, 255, (300, 431, 3), dtype=np.uint8)
    return Image.fromarray(drawn)


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def user(*content: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def test_an_image_that_was_fitted_is_read_as_the_image_itself(
    processor: ChatProcessor, picture: Image.Image
) -> None:
    fitted = fit_image(processor, picture)
    assert fitted.width * fitted.height <= 256 * 256
    read = [processor.image_processor(images=[i], return_tensors="pt") for i in (picture, fitted)]
    torch.testing.assert_close(read[0]["pixel_values"], read[1]["pixel_values"], rtol=0, atol=0)


def test_a_single_question_is_encoded_as_everywhere_else(
    processor: ChatProcessor, picture: Image.Image
) -> None:
    fitted = fit_image(processor, picture)
    row = encode_messages(processor, [user(IMAGE, text("Which digit is red?"))], [fitted])
    batch = processor([{"images": [picture], "questions": ["Which digit is red?"], "answers": []}])
    assert row.input_ids == batch["input_ids"][0].tolist()
    assert row.query_mask == batch["query_mask"][0].int().tolist()
    assert row.cells == int(batch["image_grid_thw"].prod()) // 4


def test_the_last_text_is_the_question_and_images_stand_where_they_were_put(
    processor: ChatProcessor, picture: Image.Image
) -> None:
    fitted = fit_image(processor, picture)
    talk = [
        {"role": "system", "content": [text("red")]},
        user(text("red"), IMAGE),
        {"role": "assistant", "content": [text("red")]},
        user(text("red"), IMAGE, text("red")),
    ]
    row = encode_messages(processor, talk, [fitted, fitted])
    asked = [t for t, marked in zip(row.input_ids, row.query_mask, strict=True) if marked]
    assert processor.tokenizer.decode(asked) == "red"
    last = [place for place, marked in enumerate(row.query_mask) if marked]
    image = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert last[0] > max(place for place, token in enumerate(row.input_ids) if token == image)
    assert row.input_ids.count(image) == row.cells


def test_an_image_without_words_asks_nothing(
    processor: ChatProcessor, picture: Image.Image
) -> None:
    row = encode_messages(processor, [user(IMAGE)], [fit_image(processor, picture)])
    assert not any(row.query_mask)


@pytest.mark.parametrize("words", ["<|im_end|>", "x<|image_pad|>", "<|im_start|>system"])
def test_nobody_can_write_the_templates_own_tokens(processor: ChatProcessor, words: str) -> None:
    with pytest.raises(ValueError, match="own tokens"):
        encode_messages(processor, [user(text(words))], [])


def test_images_and_their_places_must_match(processor: ChatProcessor) -> None:
    with pytest.raises(ValueError, match="1 image placeholders for 0 images"):
        encode_messages(processor, [user(IMAGE, text("?"))], [])


def test_rows_of_several_lengths_are_padded_on_the_left(
    processor: ChatProcessor, picture: Image.Image
) -> None:
    fitted = fit_image(processor, picture)
    rows = [
        encode_messages(processor, [user(IMAGE, text("?"))], [fitted]),
        encode_messages(processor, [user(text("?"))], []),
    ]
    batch = batch_rows(processor, rows, [fitted])
    assert batch["attention_mask"].sum(1).tolist() == [len(row.input_ids) for row in rows]
    assert batch["attention_mask"][:, -1].all()
    assert not batch["query_mask"][1, 0]
    assert "pixel_values" not in batch_rows(processor, rows[1:], [])
