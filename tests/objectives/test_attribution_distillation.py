"""ARR-COC learns to look where the backbone reads, whatever a batch looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lightning_arrcoc import ArrCocQwen3VL
from lightning_arrcoc.objectives import (
    AttributionDistillation,
    FullTokens,
    divergence,
)
from lightning_arrcoc.relevance.allocation import token_count
from lightning_arrcoc.vlm.attribution import attribute_answers
from lightning_arrcoc.vlm.packing import forward_packed
from lightning_arrcoc.vlm.patches import fold_patches

ASKED = (("Which digit is red?", "7"), ("Which digit is blue?", "3"), ("How many?", "4"))


@pytest.fixture
def model(backbone_folder: Path) -> ArrCocQwen3VL:
    torch.manual_seed(0)
    made = ArrCocQwen3VL.from_pretrained(str(backbone_folder), budget=0.25)
    made.requires_grad_(False)
    made.arr_coc.requires_grad_(True)
    return made


def disturb(model: ArrCocQwen3VL) -> None:
    """Move every weight a little, so that nothing is silent by the zero start."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.arr_coc.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def picture(seed: int, size: tuple[int, int] = (128, 96)) -> Image.Image:
    pixels = torch.randint(
        256, (size[1] // 16, size[0] // 16, 3), generator=torch.manual_seed(seed)
    )
    return Image.fromarray(pixels.to(torch.uint8).numpy()).resize(size, Image.Resampling.BILINEAR)


def encode(model: ArrCocQwen3VL, *rows: Any, pack: bool = True) -> Any:
    """Rows of (images, turns)."""
    assert model.processor is not None
    return model.processor(
        [
            {"images": images, "questions": [q for q, _ in turns], "answers": [a for _, a in turns]}
            for images, turns in rows
        ],
        pack=pack,
    )


def attributed(model: ArrCocQwen3VL, batch: Any) -> torch.Tensor:
    unused = ("attention_mask", "query_mask")
    inputs = {key: value for key, value in batch.items() if key not in unused}
    return attribute_answers(model.backbone, **inputs)


# ------------------------------------------------------------------------------ the divergence


def test_the_divergence_is_that_of_torch_and_zero_where_both_agree() -> None:
    shares = torch.tensor([0.5, 0.25, 0.25, 0.0])
    logits = torch.tensor([0.3, -1.0, 2.0, 0.5])
    expected = torch.nn.functional.kl_div(logits.log_softmax(0), shares, reduction="sum")
    torch.testing.assert_close(divergence(shares, logits), expected)
    assert float(divergence(shares, shares.clamp(min=1e-30).log())) == pytest.approx(0, abs=1e-6)
    assert float(divergence(torch.zeros(4), logits)) == 0


# ------------------------------------------------------------------------------- distillation


def test_the_loss_compares_relevance_with_what_the_backbone_reads(model: ArrCocQwen3VL) -> None:
    """Worked out once more, question by question, by the model's own forward."""
    disturb(model)  # or the question would not be heard yet
    rows = [([picture(0)], ASKED), ([picture(1, (96, 96))], ASKED[:2])]
    batch = encode(model, *rows)
    model.arr_coc.allocator.temperature = 0.5
    lesson = AttributionDistillation(faded_turns=0)(model, batch, 0.0)
    shares = attributed(model, batch)
    visual = batch["input_ids"] == model.backbone.config.image_token_id
    losses, covered = [], []
    for row, (images, turns) in enumerate(rows):
        for turn, asked in enumerate(turns):
            output = model(**encode(model, (images, [asked]), pack=False))
            logits = output.relevance_logits[0].flatten()
            kept = logits.topk(token_count(model.budget, len(logits))).indices
            mine = shares[row, turn][visual[row]]
            losses.append(divergence(mine, logits / 0.5))
            covered.append(mine[kept].sum())
    torch.testing.assert_close(lesson.loss, torch.stack(losses).mean(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        lesson.logs["covered"], torch.stack(covered).mean(), atol=1e-5, rtol=1e-4
    )
    assert float(lesson.logs["kept"]) == pytest.approx((3 * 3 + 2 * 2) / 5)


def test_one_turn_teaches_the_same_packed_or_not(model: ArrCocQwen3VL) -> None:
    rows = [([picture(0)], ASKED[:1]), ([picture(1)], ASKED[1:2])]
    packed = AttributionDistillation(faded_turns=0)(model, encode(model, *rows), 0.0)
    plain = AttributionDistillation(faded_turns=0)(model, encode(model, *rows, pack=False), 0.0)
    torch.testing.assert_close(packed.loss, plain.loss, atol=1e-4, rtol=1e-3)


def test_several_images_of_a_sample_share_one_distribution(model: ArrCocQwen3VL) -> None:
    batch = encode(model, ([picture(0), picture(1, (64, 64))], ASKED[:1]))
    lesson = AttributionDistillation(faded_turns=0)(model, batch, 0.0)
    output = model(**encode(model, ([picture(0), picture(1, (64, 64))], ASKED[:1]), pack=False))
    logits = torch.cat([x.flatten() for x in output.relevance_logits])
    shares = attributed(model, batch)[0, 0]
    visual = batch["input_ids"][0] == model.backbone.config.image_token_id
    torch.testing.assert_close(lesson.loss, divergence(shares[visual], logits / 0.25))
    assert float(lesson.logs["kept"]) == 4  # a quarter of 12 + 4


def test_every_part_that_speaks_learns(model: ArrCocQwen3VL) -> None:
    disturb(model)
    AttributionDistillation()(model, encode(model, ([picture(0)], ASKED)), 0.0).loss.backward()
    silent = [
        name
        for name, parameter in model.arr_coc.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().max() > 0
    ]
    assert silent == ["null_query"]  # nobody asked nothing
    assert all(parameter.grad is None for parameter in model.backbone.parameters())


def test_a_few_steps_bring_relevance_to_what_is_read(model: ArrCocQwen3VL) -> None:
    batch = encode(model, ([picture(0)], ASKED), ([picture(1)], ASKED))
    objective = AttributionDistillation(faded_turns=0)
    optimizer = torch.optim.AdamW(model.arr_coc.parameters(), lr=5e-3)
    lessons = []
    for _ in range(25):
        lesson = objective(model, batch, 0.0)
        optimizer.zero_grad()
        lesson.loss.backward()
        optimizer.step()
        lessons.append(lesson)
    assert lessons[-1].loss.item() < 0.5 * lessons[0].loss.item()
    assert float(lessons[-1].logs["covered"]) > float(lessons[0].logs["covered"])


def test_accuracy_is_looked_at_now_and_then(model: ArrCocQwen3VL) -> None:
    batch = encode(model, ([picture(0)], ASKED[:1]))
    objective = AttributionDistillation(accuracy_every=3)
    seen = ["accuracy" in objective(model, batch, 0.0).logs for _ in range(7)]
    assert seen == [True, False, False, True, False, False, True]


def test_accuracy_is_that_of_answers_from_the_chosen_cells(model: ArrCocQwen3VL) -> None:
    """With every cell chosen it is the backbone's own; with few it can differ."""
    batch = encode(model, ([picture(0)], ASKED), ([picture(1)], ASKED))
    model.budget = 1.0
    own = FullTokens()(model, batch, 0.0).logs["accuracy"]
    chosen = AttributionDistillation()(model, batch, 0.0).logs
    assert float(chosen["accuracy"]) == float(own)
    assert float(chosen["covered"]) == pytest.approx(1)


def test_each_question_sees_the_cells_that_it_chose_and_no_others(
    model: ArrCocQwen3VL, monkeypatch: pytest.MonkeyPatch
) -> None:
    disturb(model)
    batch = encode(model, ([picture(0)], ASKED[:2]))
    seen: list[torch.Tensor] = []

    def watched(*args: Any, key_bias: torch.Tensor, **kwargs: Any) -> Any:
        seen.append(key_bias)
        return forward_packed(*args, key_bias=key_bias, **kwargs)

    monkeypatch.setattr(
        "lightning_arrcoc.objectives.attribution_distillation.forward_packed", watched
    )
    AttributionDistillation()(model, batch, 0.0)
    visual = (batch["input_ids"][0] == model.backbone.config.image_token_id).nonzero()[:, 0]
    for turn, asked in enumerate(ASKED[:2]):
        output = model(**encode(model, ([picture(0)], [asked]), pack=False))
        open_cells = (seen[0][0, turn, visual] == 0).nonzero()[:, 0]
        logits = output.relevance_logits[0].flatten()
        assert open_cells.tolist() == sorted(logits.topk(len(open_cells)).indices.tolist())
        assert len(open_cells) == token_count(model.budget, len(logits))


def test_text_alone_teaches_nothing_but_keeps_every_gradient(model: ArrCocQwen3VL) -> None:
    lesson = AttributionDistillation()(model, encode(model, ([], ASKED)), 0.0)
    assert lesson.loss.item() == 0
    lesson.loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.arr_coc.parameters())


def test_rows_without_an_image_among_others_are_left_out(model: ArrCocQwen3VL) -> None:
    mixed = encode(model, ([picture(0)], ASKED), ([], ASKED))
    alone = encode(model, ([picture(0)], ASKED))
    objective = AttributionDistillation(faded_turns=0)
    one, other = (objective(model, batch, 0.0) for batch in (mixed, alone))
    torch.testing.assert_close(one.loss, other.loss, atol=1e-5, rtol=1e-4)


def test_some_turns_hardly_see_most_tokens_and_a_resumed_run_draws_the_same(
    model: ArrCocQwen3VL,
) -> None:
    turns = ASKED * 4
    batch = encode(model, *[([picture(row, (256, 256))], turns) for row in range(4)])
    visual = (batch["input_ids"] == model.backbone.config.image_token_id)[:, None]
    seen: list[torch.Tensor] = []

    class Watched(AttributionDistillation):
        @staticmethod
        def shares_of(backbone: Any, *, key_bias: torch.Tensor, **packed: Any) -> torch.Tensor:
            seen.append(key_bias)
            return attribute_answers(backbone, **packed, key_bias=key_bias)

    objective = Watched(seed=3)
    objective(model, batch, 0.0)
    objective(model, batch, 0.0)
    resumed = Watched(seed=3)
    resumed.load_state_dict({"batches": 1})
    resumed(model, batch, 0.0)
    first, second, again = seen
    assert bool((first[~visual.expand_as(first)] == 0).all())
    assert set(first.unique().tolist()) == {-3.0, 0.0}
    faded = first.amin(-1) < 0
    assert 0.4 < float(faded.float().mean()) < 0.8  # of 48 turns, 0.6 expected
    cells = first[faded.unsqueeze(-1) & visual]
    assert 0.75 < float((cells < 0).float().mean()) < 0.85
    assert not torch.equal(first, second)
    torch.testing.assert_close(second, again, rtol=0, atol=0)


def test_what_is_faded_changes_what_is_learned(model: ArrCocQwen3VL) -> None:
    batch = encode(model, ([picture(0)], ASKED))
    none, all_turns = (
        AttributionDistillation(faded_turns=share, seed=0)(model, batch, 0.0).loss.item()
        for share in (0, 1)
    )
    assert abs(none - all_turns) > 1e-3


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_no_share_of_turns_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"faded_turns={share}; expected a share"):
        AttributionDistillation(faded_turns=share)


@pytest.mark.parametrize("every", [0, -1])
def test_never_looking_is_refused(every: int) -> None:
    with pytest.raises(ValueError, match=f"accuracy_every={every}; expected 1 or more"):
        AttributionDistillation(accuracy_every=every)


def test_packed_turns_without_marked_questions_are_refused(model: ArrCocQwen3VL) -> None:
    batch = encode(model, ([picture(0)], ASKED))
    batch["query_mask"] = None
    with pytest.raises(ValueError, match="what they ask is unknown"):
        AttributionDistillation()(model, batch, 0.0)


def test_textures_made_before_teach_as_the_images_do(
    model: ArrCocQwen3VL, encode: Any, picture: Any
) -> None:
    batch = encode(([picture(0)], ASKED), pack=True)
    scale = model.pixel_scale
    rows, columns = batch["image_grid_thw"][0, 1:].tolist()
    image = fold_patches(batch["pixel_values"], (rows, columns), 2, scale)
    (measured,) = model.arr_coc.texture(image)
    plain = AttributionDistillation()(model, batch, 0.0)
    given = AttributionDistillation()(model, batch | {"textures": [measured]}, 0.0)
    other = AttributionDistillation()(model, batch | {"textures": [1 - measured]}, 0.0)
    torch.testing.assert_close(given.loss, plain.loss)
    assert abs(other.loss.item() - plain.loss.item()) > 1e-4
