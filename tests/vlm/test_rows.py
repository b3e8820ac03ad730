"""Rows taken from a batch are those that the processor would have made of them alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import Qwen3VLForConditionalGeneration

from lightning_arrcoc.vlm import ChatProcessor
from lightning_arrcoc.vlm.loading import load_backbone
from lightning_arrcoc.vlm.rows import a_row_a_turn, take_rows

TURNS = (("Which digit is red?", "7"), ("How many digits are there?", "3"), ("Where?", "below"))


@pytest.fixture(scope="module")
def processor(backbone_folder: Path) -> ChatProcessor:
    return ChatProcessor.from_pretrained(backbone_folder)


@pytest.fixture(scope="module")
def backbone(backbone_folder: Path) -> Qwen3VLForConditionalGeneration:
    return load_backbone(str(backbone_folder))


def picture(seed: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    pixels = torch.randint(256, (size[1], size[0], 3), generator=torch.manual_seed(seed))
    return Image.fromarray(pixels.to(torch.uint8).numpy())


ROWS = (
    ([picture(0)], TURNS),
    ([], TURNS[:2]),
    ([picture(1), picture(2, (64, 128))], TURNS[1:]),
)


def encode(processor: ChatProcessor, *rows: Any, pack: bool = False) -> Any:
    return processor(
        [
            {"images": images, "questions": [q for q, _ in turns], "answers": [a for _, a in turns]}
            for images, turns in rows
        ],
        pack=pack,
    )


def the_same(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for key in expected:
        assert torch.equal(found[key], expected[key]), key


def test_each_packed_turn_becomes_what_it_is_alone(
    processor: ChatProcessor, backbone: Qwen3VLForConditionalGeneration
) -> None:
    alone = [(images, [turn]) for images, turns in ROWS for turn in turns]
    found = a_row_a_turn(backbone, encode(processor, *ROWS, pack=True))
    the_same(found, encode(processor, *alone))


def test_turns_of_text_alone_are_separated_too(
    processor: ChatProcessor, backbone: Qwen3VLForConditionalGeneration
) -> None:
    found = a_row_a_turn(backbone, encode(processor, ([], TURNS), pack=True))
    the_same(found, encode(processor, *(([], [turn]) for turn in TURNS)))


def test_what_is_not_packed_stays_as_it_is(
    processor: ChatProcessor, backbone: Qwen3VLForConditionalGeneration
) -> None:
    batch = encode(processor, *((images, turns[:1]) for images, turns in ROWS))
    the_same(a_row_a_turn(backbone, batch), batch)


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("rows", [[2], [1], [2, 0], [0, 0, 1, 2, 0]])
def test_rows_are_taken_with_their_images(
    processor: ChatProcessor,
    backbone: Qwen3VLForConditionalGeneration,
    rows: list[int],
    pack: bool,
) -> None:
    taken = take_rows(backbone, encode(processor, *ROWS, pack=pack), rows)
    expected = encode(processor, *(ROWS[row] for row in rows), pack=pack)
    for key in taken.keys() - {"pixel_values", "image_grid_thw"}:
        for mine, alone in zip(taken[key], expected[key], strict=True):
            shorter = min(len(mine), len(alone))  # the longest row may have stayed behind
            assert torch.equal(mine[-shorter:], alone[-shorter:]), key
            assert int(taken["attention_mask"].sum()) == int(expected["attention_mask"].sum())
    images = sum(len(ROWS[row][0]) for row in rows)
    assert len(taken.get("image_grid_thw", ())) == images
    if images:
        assert torch.equal(taken["image_grid_thw"], expected["image_grid_thw"])
        assert torch.equal(taken["pixel_values"], expected["pixel_values"])


def test_what_belongs_to_images_goes_with_them(
    processor: ChatProcessor, backbone: Qwen3VLForConditionalGeneration
) -> None:
    batch = encode(processor, *ROWS) | {"textures": [10, 11, 12], "previous": [None, 1, 2]}
    taken = take_rows(backbone, batch, [2, 0, 1])
    assert taken["textures"] == [11, 12, 10]
    assert taken["previous"] == [1, 2, None]


def test_images_that_do_not_match_the_text_are_refused(
    processor: ChatProcessor, backbone: Qwen3VLForConditionalGeneration
) -> None:
    batch = encode(processor, *ROWS)
    batch["image_grid_thw"] = batch["image_grid_thw"][1:]
    with pytest.raises(ValueError, match="images have"):
        take_rows(backbone, batch, [0])
