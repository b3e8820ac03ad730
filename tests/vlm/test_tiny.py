"""The embedded backbone is small, real and trained."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen3VLForConditionalGeneration

from lightning_arrcoc import ArrCocQwen3VL
from lightning_arrcoc.contest import decode_answers, exact_matches
from lightning_arrcoc.data.collate import Collator
from lightning_arrcoc.data.digits import DigitQuestions
from lightning_arrcoc.vlm.loading import TINY_FOLDER

ASKED = 60


@pytest.fixture(scope="module")
def tiny() -> ArrCocQwen3VL:
    return ArrCocQwen3VL.from_pretrained("tiny", dtype="float32", budget=1.0).eval()


def test_it_is_a_stock_qwen3_vl_of_one_to_three_million_parameters(tiny: ArrCocQwen3VL) -> None:
    assert type(tiny.backbone) is Qwen3VLForConditionalGeneration
    assert 1e6 <= sum(p.numel() for p in tiny.backbone.parameters()) <= 3e6


def test_it_weighs_little_in_the_repository() -> None:
    assert sum(file.stat().st_size for file in TINY_FOLDER.iterdir() if file.is_file()) <= 6e6


@torch.no_grad()
def test_it_answers_nearly_every_held_out_question_with_all_tokens(tiny: ArrCocQwen3VL) -> None:
    """Far below its measured figure, far above any guess."""
    assert tiny.processor is not None
    source = DigitQuestions("test", ASKED)
    batch = Collator(tiny.processor, for_measuring=True)([source[i] for i in range(ASKED)])
    output = tiny.generate(**batch["prompts"], max_new_tokens=8, do_sample=False)
    right = exact_matches(decode_answers(tiny, output, batch["prompts"]), batch["answers"])
    assert sum(right) / ASKED >= 0.85
