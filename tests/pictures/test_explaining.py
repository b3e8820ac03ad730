"""The sheet shows the very choice behind the answer, and explaining changes nothing."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch as pl
import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from lightning_arrcoc import ArrCocModule, ArrCocQwen3VL, VqaDataModule
from lightning_arrcoc.data.sample import Sample, Turn
from lightning_arrcoc.pictures import Explained, Explaining, explain, explaining
from lightning_arrcoc.relevance import Knowing, Realization, TextureGenerator, build_realizer
from lightning_arrcoc.relevance.textures import CORE, FULL

QUESTION = "Which digit is red?"


@pytest.fixture
def model(backbone_folder: Path) -> ArrCocQwen3VL:
    torch.manual_seed(0)
    made = ArrCocQwen3VL.from_pretrained(str(backbone_folder), budget=0.25).eval()
    with torch.no_grad():
        for parameter in made.arr_coc.parameters():  # away from their zero start
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return made


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    torch.manual_seed(seed)
    pixels = torch.randint(256, (height // 16, width // 16, 3), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy()).resize((width, height), Image.Resampling.NEAREST)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Explained]:
    """What was drawn; the sheet itself is tested elsewhere."""
    items: list[Explained] = []

    def draw(item: Explained) -> Figure:
        items.append(item)
        return Figure()

    monkeypatch.setattr(explaining, "draw_explained", draw)
    return items


def asked_alone(model: ArrCocQwen3VL, image: Image.Image, question: str) -> Realization:
    """What ARR-COC finds, asked without anything that explains."""
    assert model.processor is not None
    batch: Any = model.processor([{"images": [image], "questions": [question], "answers": []}])
    found: list[Realization] = []

    class Listening:
        allocator = model.arr_coc.allocator

        def __call__(self, *inputs: Any) -> Realization:
            found.append(model.arr_coc(*inputs))
            return found[-1]

    model.generate(**batch, max_new_tokens=1, do_sample=False, selector=Listening())
    (realization,) = found
    return realization


def assert_same(one: Realization, other: Realization) -> None:
    for name, a, b in zip(Realization._fields[:4], one, other, strict=False):  # what is drawn
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("select", ["before_vision", "after_vision"])
@pytest.mark.parametrize("budget", [3, 0.5])
def test_explain_draws_the_models_own_choice(
    select: Any, budget: float, model: ArrCocQwen3VL, drawn: list[Explained]
) -> None:
    model.select, model.budget = select, budget
    image = picture(160, 128)
    assert isinstance(explain(model, image, QUESTION, "7"), Figure)
    (item,) = drawn
    assert_same(item.realization, asked_alone(model, image, QUESTION))
    answered = item.answered
    assert len(answered.allocation.levels) == (3 if budget == 3 else 10)
    torch.testing.assert_close(answered.allocation.relevance, item.realization.relevance[0])
    assert (answered.question, answered.truth) == (QUESTION, "7")
    assert item.channels == CORE


def test_the_answer_is_that_of_generate(model: ArrCocQwen3VL, drawn: list[Explained]) -> None:
    image = picture(128, 128)
    explain(model, image, QUESTION)
    assert model.processor is not None
    batch: Any = model.processor([{"images": [image], "questions": [QUESTION], "answers": []}])
    output = model.generate(**batch, max_new_tokens=64, do_sample=False)
    ids = output.sequences[0, batch["input_ids"].shape[1] :]
    assert drawn[0].answered.answer == model.processor.tokenizer.decode(
        ids, skip_special_tokens=True
    )
    assert drawn[0].answered.truth is None


def test_a_sheet_is_made_without_pyplot_knowing(model: ArrCocQwen3VL) -> None:
    figure = explain(model, picture(96, 64), QUESTION)
    names = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert names >= {channel.name for channel in CORE}
    assert plt.get_fignums() == []


def test_a_scorer_that_is_left_out_is_marked(backbone_folder: Path) -> None:
    def made(query_dim: int) -> Any:
        return build_realizer(query_dim, knowing=partial(Knowing, scorers=["participatory"]))

    model = ArrCocQwen3VL.from_pretrained(str(backbone_folder), arr_coc=made)
    figure = explain(model, picture(64, 64), QUESTION)
    names = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert {"information (not heard)", "perspectival (not heard)", "participatory"} <= names


def test_all_forty_channels_are_explained(backbone_folder: Path, drawn: list[Explained]) -> None:
    def made(query_dim: int) -> Any:
        return build_realizer(query_dim, texture=TextureGenerator("full"))

    model = ArrCocQwen3VL.from_pretrained(str(backbone_folder), arr_coc=made)
    explain(model, picture(64, 64), QUESTION)
    assert drawn[0].channels == FULL
    assert drawn[0].realization.textures.shape == (1, 40, 2, 2)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_pictures_of_any_mode_are_taken(
    mode: str, model: ArrCocQwen3VL, drawn: list[Explained]
) -> None:
    explain(model, picture(64, 64).convert(mode), QUESTION)
    assert drawn[0].answered.image.mode == "RGB"


def test_what_cannot_be_explained_is_refused_plainly(model: ArrCocQwen3VL) -> None:
    with pytest.raises(TypeError, match="of type str; expected a picture of PIL"):
        explain(model, "photo.png", QUESTION)  # type: ignore[arg-type]
    model.processor = None
    with pytest.raises(ValueError, match=r"has no processor.*from_pretrained"):
        explain(model, picture(64, 64), QUESTION)


def test_textures_without_a_table_are_refused_by_name(model: ArrCocQwen3VL) -> None:
    del model.arr_coc.texture.channels
    with pytest.raises(ValueError, match="TextureGenerator has no table of `channels`"):
        explain(model, picture(64, 64), QUESTION)


def test_explaining_leaves_no_hook_behind_even_if_the_model_fails(
    model: ArrCocQwen3VL, drawn: list[Explained], monkeypatch: pytest.MonkeyPatch
) -> None:
    explain(model, picture(64, 64), QUESTION)
    assert not model.arr_coc._forward_hooks

    def fail(*_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model.backbone, "generate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        explain(model, picture(64, 64), QUESTION)
    assert not model.arr_coc._forward_hooks


# ------------------------------------------------------------------------------ predicted samples

SIZES = [
    [(64, 96)],
    [(96, 64), (64, 96), (96, 64)],
    [],
    [(96, 64)],
    [(64, 96), (128, 64)],
    [(64, 96)],
]


@pytest.fixture
def samples() -> list[Sample]:
    """One, several and no images, of several sizes, all different."""
    seeds = iter(range(100))
    return [
        Sample(
            tuple(picture(*size, seed=next(seeds)) for size in sizes),
            (Turn(f"Which digit is {colour}?", "7"),),
        )
        for colour, sizes in zip(
            ("red", "blue", "pink", "grey", "white", "cyan"), SIZES, strict=True
        )
    ]


def trainer(folder: Path, *callbacks: pl.Callback) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, callbacks=list(callbacks),
    )  # fmt: skip


@pytest.mark.parametrize(("batch_size", "most"), [(6, 99), (2, 5), (4, 1), (1, 6)])
def test_predicted_samples_are_explained_image_by_image_up_to_the_cap(
    batch_size: int, most: int, model: ArrCocQwen3VL, samples: list[Sample], tmp_path: Path
) -> None:
    observer = Explaining(model, samples, most)
    data = VqaDataModule(test=samples, batch_size=batch_size, num_workers=0)
    batches = trainer(tmp_path, observer).predict(ArrCocModule(model), data)
    found = [item for batch in batches or [] for item in batch]
    assert len(found) == len(samples)
    assert len(observer.explained) == min(most, len(samples))
    for sample, item, images in zip(samples, found, observer.explained, strict=False):
        assert len(images) == len(sample.images)
        for image, allocation, explained in zip(
            sample.images, item["allocations"], images, strict=True
        ):
            answered = explained.answered
            assert answered.image is image
            assert answered[1:4] == (sample.turns[0].question, item["answer"], "7")
            assert all(torch.equal(a, b) for a, b in zip(answered[4], allocation, strict=True))
            assert_same(explained.realization, asked_alone(model, image, sample.turns[0].question))
    assert not model.arr_coc._forward_hooks


def test_explaining_changes_no_answer(
    model: ArrCocQwen3VL, samples: list[Sample], tmp_path: Path
) -> None:
    data = VqaDataModule(test=samples, batch_size=3, num_workers=0)
    plain = trainer(tmp_path).predict(ArrCocModule(model), data)
    seen = trainer(tmp_path, Explaining(model, samples, 6)).predict(ArrCocModule(model), data)
    for one, other in zip(plain or [], seen or [], strict=True):
        for a, b in zip(one, other, strict=True):
            assert a["answer"] == b["answer"]
            for x, y in zip(a["allocations"], b["allocations"], strict=True):
                assert all(torch.equal(p, q) for p, q in zip(x, y, strict=True))


def test_an_answer_that_nobody_knows_has_no_truth(model: ArrCocQwen3VL, tmp_path: Path) -> None:
    mine = [Sample((picture(64, 64),), (Turn(QUESTION, ""),))]
    observer = Explaining(model, mine, 1)
    data = VqaDataModule(test=mine, batch_size=1, num_workers=0)
    trainer(tmp_path, observer).predict(ArrCocModule(model), data)
    assert observer.explained[0][0].answered.truth is None


def test_a_backbone_that_reads_everything_has_nothing_to_explain(
    model: ArrCocQwen3VL, samples: list[Sample], tmp_path: Path
) -> None:
    data = VqaDataModule(test=samples, batch_size=6, num_workers=0)
    run = trainer(tmp_path, Explaining(model, samples, 6))
    with pytest.raises(ValueError, match=r"8 images .* asked about 0\..*training=backbone"):
        run.predict(ArrCocModule(model, trains="backbone"), data)
    assert not model.arr_coc._forward_hooks
