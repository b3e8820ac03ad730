"""Several prompts at once."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_arrcoc import ArrCocQwen3VL
from lightning_arrcoc.vlm.answering import Piece, Prompt, _Draw, answer_together
from lightning_arrcoc.vlm.messages import encode_messages, fit_image


@pytest.fixture(scope="module")
def model() -> ArrCocQwen3VL:
    torch.manual_seed(0)
    return ArrCocQwen3VL.from_pretrained("tiny", dtype="float32", budget=0.5).eval()


def prompt(model: ArrCocQwen3VL, size: tuple[int, int] | None, words: str, **more: Any) -> Prompt:
    assert model.processor is not None
    images = []
    if size is not None:
        drawn = np.random.default_rng(size[0]).integers(0, 255, (*size, 3), dtype=np.uint8)
        images = [fit_image(model.processor, Image.fromarray(drawn))]
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": words}]
    row = encode_messages(model.processor, [{"role": "user", "content": content}], images)
    return Prompt(row, tuple(images), **more)


def answers(model: ArrCocQwen3VL, *prompts: Prompt) -> list[tuple[str, Piece]]:
    texts: dict[int, str] = defaultdict(str)
    last: dict[int, Piece] = {}

    def tell(number: int, piece: Piece) -> None:
        assert number not in last  # nothing comes behind the end
        texts[number] += piece.text
        if piece.reason is not None:
            last[number] = piece

    answer_together(model, prompts, tell)
    return [(texts[number], last[number]) for number in range(len(prompts))]


@pytest.fixture(scope="module")
def mixed(model: ArrCocQwen3VL) -> list[Prompt]:
    """Images of different sizes, none, and each with a budget and a length of its own."""
    return [
        prompt(model, (128, 160), "Which digit is red?", budget=3, max_tokens=4),
        prompt(model, None, "Hello", max_tokens=6),
        prompt(model, (96, 96), "How many digits are there?", budget=1.0, max_tokens=2),
        prompt(model, (128, 128), "Which digit is left of the red one?", max_tokens=3),
    ]


def test_each_is_answered_as_if_it_were_alone(model: ArrCocQwen3VL, mixed: list[Prompt]) -> None:
    together = answers(model, *mixed)
    for number, one in enumerate(mixed):
        ((text, last),) = answers(model, one)
        assert (text, last.reason, last.tokens) == (together[number][0], *together[number][1][1:3])
        for mine, its in zip(last.allocations, together[number][1].allocations, strict=True):
            assert mine.boxes.equal(its.boxes)


def test_each_spends_its_own_budget_and_keeps_to_its_own_length(
    model: ArrCocQwen3VL, mixed: list[Prompt]
) -> None:
    found = [last for _, last in answers(model, *mixed)]
    assert [sum(len(a.levels) for a in one.allocations) for one in found] == [3, 0, 9, 8]
    assert all(one.tokens <= p.max_tokens for one, p in zip(found, mixed, strict=True))


def test_the_words_are_those_of_generate(model: ArrCocQwen3VL, mixed: list[Prompt]) -> None:
    one = mixed[0]
    assert model.processor is not None
    batch = model.processor(
        [{"images": one.images, "questions": ["Which digit is red?"], "answers": []}]
    )
    output = model.generate(**batch, budget=3, max_new_tokens=4, do_sample=False)
    words = model.processor.tokenizer.decode(
        output.sequences[0, batch["input_ids"].shape[1] :], skip_special_tokens=True
    )
    assert answers(model, one)[0][0] == words


def test_a_prompt_whose_time_is_over_ends_and_others_go_on(
    model: ArrCocQwen3VL, mixed: list[Prompt]
) -> None:
    late, other = mixed[0]._replace(deadline=0.0), mixed[2]
    found = answers(model, late, other)
    assert found[0][1].reason == "timeout"
    assert found[1][1].reason in ("stop", "length")


def test_what_is_drawn_depends_on_the_seed_alone(model: ArrCocQwen3VL, mixed: list[Prompt]) -> None:
    drawn = [mixed[0]._replace(temperature=2.0, seed=seed, max_tokens=6) for seed in range(5)]
    found = [text for text, _ in answers(model, *drawn)]
    assert found == [text for text, _ in answers(model, *drawn)]
    assert len(set(found)) > 1
    greedy = answers(model, mixed[0])[0][0]
    assert answers(model, drawn[0], mixed[0])[1][0] == greedy  # a neighbour that draws is nothing


def test_tokens_are_drawn_by_their_probabilities_among_the_likeliest() -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    draw = _Draw(1.0, 1.0, seed=0)
    share = torch.tensor([draw(logits) for _ in range(2000)]).bincount() / 2000
    torch.testing.assert_close(share, torch.tensor([0.5, 0.3, 0.2]), atol=0.04, rtol=0)
    narrow = _Draw(1.0, 0.7, seed=0)
    assert {narrow(logits) for _ in range(200)} == {0, 1}
    assert {_Draw(1.0, 1e-9, seed=0)(logits) for _ in range(5)} == {0}
    for coldest in (1e-9, 1e-40, 5e-324):
        assert _Draw(coldest, 1.0, seed=0)(100 * logits) == 0


def test_a_budget_beyond_the_cells_fails_the_batch(model: ArrCocQwen3VL) -> None:
    with pytest.raises(ValueError, match="budget=10"):
        answers(model, prompt(model, (96, 96), "?", budget=10))
