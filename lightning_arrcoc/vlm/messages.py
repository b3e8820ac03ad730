"""Messages with pictures anywhere among them -> the tensors Qwen3-VL reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from lightning_arrcoc.vlm.chat import STAND_IN, ChatProcessor, pad_rows

Message = dict[str, Any]  # role, and content: parts of type "text" (with its text) or "image"


class Row(NamedTuple):
    """A prompt in tokens.

    Attributes:
        input_ids: with each image's placeholder repeated once per visual token.
        query_mask: 1 at the tokens of the last thing that was asked.
        cells: visual tokens of all images.
    """

    input_ids: list[int]
    query_mask: list[int]
    cells: int


def fit_image(processor: ChatProcessor, image: Image.Image) -> Image.Image:
    """An image in the size that the model reads: the processor leaves it as it is then."""
    images = processor.image_processor
    height, width = smart_resize(
        image.height,
        image.width,
        factor=images.patch_size * images.merge_size,
        min_pixels=images.size["shortest_edge"],
        max_pixels=images.size["longest_edge"],
    )
    return image.resize((width, height), images.resample)


def encode_messages(
    processor: ChatProcessor, messages: Sequence[Message], images: Sequence[Image.Image]
) -> Row:
    """One prompt in tokens, up to where the answer begins.

    The last text of the last message is taken for the question; without one nothing is asked.

    Args:
        processor: of the model.
        messages: in the order of the talk, with content in parts.
        images: those of all messages, as `fit_image` leaves them.

    Raises:
        ValueError: images and their places do not match, or a text holds a token of the template,
            by which it could end its own turn or pass for an image.
    """
    texts = [p["text"] for m in messages for p in m["content"] if p["type"] == "text"]
    for token in processor.tokenizer.all_special_tokens:
        if any(token in text for text in texts):
            raise ValueError(f"A text holds {token!r}, which is one of the model's own tokens.")
    cell = processor.image_processor.patch_size * processor.merge_size
    counts = [image.width * image.height // cell**2 for image in images]
    encoded = processor.tokenizer(
        _rendered(processor, messages), return_offsets_mapping=True, add_special_tokens=False
    )
    first, behind = _question(processor, messages)
    query = [int(first <= start < end <= behind) for start, end in encoded["offset_mapping"]]
    row = {"input_ids": list(encoded["input_ids"]), "query_mask": query}
    row = processor.expand_images(row, counts)
    return Row(row["input_ids"], row["query_mask"], sum(counts))


def batch_rows(
    processor: ChatProcessor, rows: Sequence[Row], images: Sequence[Image.Image]
) -> dict[str, Tensor]:
    """Prompts of several lengths as one batch, padded on the left for `generate`.

    Args:
        processor: of the model.
        rows: as `encode_messages` returns them.
        images: those of all rows in their order.
    """
    named = [{"input_ids": list(row.input_ids), "query_mask": list(row.query_mask)} for row in rows]
    batch = pad_rows(named, int(processor.tokenizer.pad_token_id), "left")
    encoded = [processor.image_processor(images=[i], return_tensors="pt") for i in images]
    for key in ("pixel_values", "image_grid_thw") if encoded else ():
        batch[key] = torch.cat([one[key] for one in encoded])
    return batch


def _rendered(processor: ChatProcessor, messages: Sequence[Message]) -> str:
    return str(
        processor.tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True
        )
    )


def _question(processor: ChatProcessor, messages: Sequence[Message]) -> tuple[int, int]:
    """Where the question begins and ends; a stand-in is searched for in its place."""
    content = list(messages[-1]["content"])
    places = [i for i, part in enumerate(content) if part["type"] == "text"]
    if not places:
        return 0, 0
    question = content[places[-1]]["text"]
    content[places[-1]] = {"type": "text", "text": STAND_IN}
    start = _rendered(processor, [*messages[:-1], {**messages[-1], "content": content}]).rindex(
        STAND_IN
    )
    return start, start + len(question)
