"""Cached textures are fresh ones, and answers stay what they were."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from PIL import Image
from torch import nn

from lightning_arrcoc import ArrCocModule, ArrCocQwen3VL, VqaDataModule
from lightning_arrcoc.data.cached_textures import CachedTextures
from lightning_arrcoc.data.collate import Collator
from lightning_arrcoc.data.digits import DigitQuestions
from lightning_arrcoc.data.sample import Sample, Turn
from lightning_arrcoc.data.staged import StagedDataset
from lightning_arrcoc.data.texture_building import build_textures
from lightning_arrcoc.data.texture_cache import TextureCache, TextureWriter
from lightning_arrcoc.data.texture_entry import texture_key
from lightning_arrcoc.objectives import (
    AttentionDistillation,
    AttributionDistillation,
    HardChoice,
    SoftGates,
    SoftToHard,
    TensionReward,
)
from lightning_arrcoc.relevance import Previous, TextureGenerator, build_realizer
from lightning_arrcoc.vlm.chat import ChatProcessor
from lightning_arrcoc.vlm.downsampling import downsample
from lightning_arrcoc.vlm.texture_recipe import TextureRecipe

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def model(backbone_folder: Path) -> ArrCocQwen3VL:
    torch.manual_seed(0)
    return ArrCocQwen3VL.from_pretrained(str(backbone_folder), budget=0.3).eval()


def recipe_of(model: ArrCocQwen3VL) -> TextureRecipe:
    assert model.processor is not None
    return TextureRecipe(model.processor, model.arr_coc.texture)


def samples() -> list[Sample]:
    """Two sizes, several images in one, none in another."""
    small = DigitQuestions("val", 3, canvas_px=(128, 96), digits=2, turns=2)
    large = DigitQuestions("test", 1, canvas_px=(160, 160), digits=3)
    one, two, three, other = small[0], small[1], small[2], large[0]
    both = two._replace(images=(two.images[0], other.images[0]))
    return [one, both, three._replace(images=()), other]


def collate(model: ArrCocQwen3VL, folder: Path | None, **options: Any) -> Any:
    assert model.processor is not None
    cached = None if folder is None else CachedTextures(folder, recipe_of(model))
    return Collator(model.processor, textures=cached, **options)(samples())


@pytest.fixture(scope="module")
def folder(model: ArrCocQwen3VL, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("textures")
    build_textures(made, [samples()], recipe_of(model))
    return made


# ------------------------------------------------------------------------------------- a batch


def test_a_batch_holds_textures_of_every_image_in_order(model: ArrCocQwen3VL, folder: Path) -> None:
    batch = collate(model, folder, for_measuring=True)
    shapes = [tuple(textures.shape) for textures in batch["inputs"]["textures"]]
    assert shapes == [(13, 3, 4), (13, 3, 4), (13, 5, 5), (13, 5, 5)]
    assert batch["prompts"]["textures"] is batch["inputs"]["textures"]
    assert all(textures.dtype == torch.float16 for textures in batch["inputs"]["textures"])
    images = [image for sample in samples() for image in sample.images]
    for image, textures in zip(images, batch["inputs"]["textures"], strict=True):
        assert torch.equal(textures, recipe_of(model).measure(image))


def test_without_images_there_are_no_textures(model: ArrCocQwen3VL, folder: Path) -> None:
    assert model.processor is not None
    wordy = [Sample((), (Turn("What?", "7"),))]
    cached = CachedTextures(folder, recipe_of(model))
    batch = Collator(model.processor, for_measuring=True, textures=cached)(wordy)
    assert "textures" not in batch["inputs"]
    assert "textures" not in batch["prompts"]


def test_logits_loss_and_choice_are_those_of_fresh_textures(
    model: ArrCocQwen3VL, folder: Path
) -> None:
    fresh, cached = (collate(model, f, for_measuring=True)["inputs"] for f in (None, folder))
    with torch.no_grad():
        expected, found = model(**fresh), model(**cached)
    assert torch.equal(found.logits, expected.logits)
    assert found.loss == expected.loss
    for one, other in zip(found.allocation, expected.allocation, strict=True):
        assert torch.equal(one.positions, other.positions)
        assert torch.allclose(one.relevance, other.relevance, atol=2e-3)


def test_answers_are_those_of_fresh_textures(model: ArrCocQwen3VL, folder: Path) -> None:
    fresh, cached = (collate(model, f, for_measuring=True)["prompts"] for f in (None, folder))
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}
    expected, found = model.generate(**fresh, **options), model.generate(**cached, **options)
    assert torch.equal(found.sequences, expected.sequences)


@pytest.mark.parametrize(
    "objective",
    [
        AttributionDistillation(),
        AttributionDistillation(tensions=TensionReward()),
        AttentionDistillation(),
        HardChoice(seed=1),  # whose budget leaves no cell on the edge, where rounding would choose
        SoftGates(),
        SoftToHard(),
    ],
    ids=lambda objective: type(objective).__name__,
)
@pytest.mark.parametrize("pack", [False, True])
def test_every_objective_learns_from_cached_textures_what_it_does_from_fresh_ones(
    model: ArrCocQwen3VL, folder: Path, objective: Any, pack: bool
) -> None:
    losses = []
    for where in (None, folder):
        if hasattr(objective, "load_state_dict"):
            objective.load_state_dict({})
        torch.manual_seed(0)
        batch = collate(model, where, for_measuring=False, pack=pack)
        losses.append(float(objective(model, batch["inputs"], 0.5).loss.detach()))
    assert losses[1] == pytest.approx(losses[0], rel=5e-3, abs=1e-4)


def test_a_smaller_image_has_textures_of_its_own(model: ArrCocQwen3VL, folder: Path) -> None:
    assert model.processor is not None
    cached = CachedTextures(folder, recipe_of(model))
    prompts = Collator(model.processor, for_measuring=True, textures=cached)(samples()[:1])
    assert "textures" in prompts["prompts"]
    smaller = downsample(prompts["prompts"], 0.25, model)
    assert "textures" not in smaller
    model.generate(**smaller, max_new_tokens=1)


# ------------------------------------------------------------------------ what was seen before


def test_channels_of_the_turn_before_are_cached_as_those_of_a_first_turn(
    backbone_folder: Path, tmp_path: Path
) -> None:
    """Zero, as they are for every picture that comes alone; and never beside `previous`."""
    full = ArrCocQwen3VL.from_pretrained(
        str(backbone_folder),
        arr_coc=lambda width: build_realizer(width, texture=TextureGenerator("full")),
    ).eval()
    recipe = recipe_of(full)
    build_textures(tmp_path, [samples()[:1]], recipe)
    assert full.processor is not None
    cached = CachedTextures(tmp_path, recipe)
    batch = Collator(full.processor, for_measuring=True, textures=cached)(samples()[:1])
    (textures,) = batch["prompts"]["textures"]
    for name in ("motion", "previous_saliency", "previous_relevance"):
        assert not textures[full.arr_coc.texture.index(name)].any()
    output = full.generate(**batch["prompts"], max_new_tokens=1)
    with pytest.raises(ValueError, match="`textures` made before were given"):
        full.generate(**batch["prompts"], previous=output.seen, max_new_tokens=1)
    fresh = batch["prompts"] | {"textures": None}
    assert isinstance(output.seen[0], Previous)
    full.generate(**fresh, previous=output.seen, max_new_tokens=1)


# --------------------------------------------------------------------- missing, damaged, changed


def test_what_is_missing_is_measured_with_one_warning_and_not_written(
    model: ArrCocQwen3VL, tmp_path: Path
) -> None:
    assert model.processor is not None
    build_textures(tmp_path, [samples()[:1]], recipe_of(model))
    cached = CachedTextures(tmp_path, recipe_of(model))
    collator = Collator(model.processor, for_measuring=False, textures=cached)
    with pytest.warns(UserWarning, match="lacks an image, or it is damaged") as told:
        batch = collator(samples())
    assert len(told) == 1
    images = [image for sample in samples() for image in sample.images]
    for image, textures in zip(images, batch["inputs"]["textures"], strict=True):
        assert torch.equal(textures, recipe_of(model).measure(image))
    collator(samples())  # a second warning would be an error
    assert len(TextureCache(tmp_path)) == 1


def test_a_damaged_entry_is_measured(model: ArrCocQwen3VL, tmp_path: Path) -> None:
    recipe, image = recipe_of(model), samples()[0].images[0]
    build_textures(tmp_path, [samples()], recipe)
    key = texture_key(image, None, recipe.fingerprint, recipe.grid_of(image))
    with TextureWriter(tmp_path) as writer:
        writer.put({key: b"damaged"})
    with pytest.warns(UserWarning, match="damaged"):
        batch = collate(model, tmp_path, for_measuring=False)
    assert torch.equal(batch["inputs"]["textures"][0], recipe.measure(image))


@pytest.mark.parametrize("change", ["image", "channels", "resolution"])
def test_a_change_never_returns_what_was_measured_before(
    model: ArrCocQwen3VL, backbone_folder: Path, tmp_path: Path, change: str
) -> None:
    (before,) = DigitQuestions("val", 1, canvas_px=(128, 96), digits=2)[0].images
    sample = Sample((before,), (Turn("?", "7"),))
    build_textures(tmp_path, [[sample]], recipe_of(model))
    texture, processor = model.arr_coc.texture, ChatProcessor.from_pretrained(backbone_folder)
    if change == "image":
        changed = before.copy()
        changed.putpixel((40, 40), (255, 255, 255))
        sample = sample._replace(images=(changed,))
    elif change == "channels":
        texture = TextureGenerator(["blue", "red", "green"])
    else:
        processor = ChatProcessor.from_pretrained(backbone_folder, min_pixels=256 * 256)
    recipe = TextureRecipe(processor, texture)
    collator = Collator(processor, for_measuring=False, textures=CachedTextures(tmp_path, recipe))
    with pytest.warns(UserWarning, match="lacks an image"):
        (textures,) = collator([sample])["inputs"]["textures"]
    assert torch.equal(textures, recipe.measure(sample.images[0]))


# ------------------------------------------------------------------------------ the data module


class Digits(VqaDataModule):
    """A little of the digits, cached."""

    def __init__(self, folder: Path | None, **options: Any) -> None:
        usual: dict[str, Any] = {"canvas_px": (96, 96), "digits": 2}
        super().__init__(
            DigitQuestions("train", 4, **usual),
            DigitQuestions("val", 2, **usual),
            DigitQuestions("test", 3, **usual),
            **{"batch_size": 2, "num_workers": 0, "texture_cache": folder, **options},
        )


def trainer(folder: Path, **options: Any) -> pl.Trainer:
    usual: dict[str, Any] = {
        "max_steps": 2, "logger": False, "enable_checkpointing": False, "accelerator": "cpu",
        "enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": folder,
    }  # fmt: skip
    return pl.Trainer(**(usual | options))


def entries(folder: Path) -> int:
    return len(TextureCache(folder))


@pytest.mark.parametrize("workers", [0, 1])
def test_fit_builds_what_it_reads_and_a_second_run_measures_nothing(
    model: ArrCocQwen3VL, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "textures"
    data = Digits(cached, num_workers=workers, cached_splits=["train", "val"])
    trainer(tmp_path).fit(ArrCocModule(model), data)
    assert entries(cached) == 6
    trainer(tmp_path).test(ArrCocModule(model), data, verbose=False)
    assert entries(cached) == 6, "the test split is not to be cached"
    monkeypatch.setattr(TextureGenerator, "forward", None)
    again = Digits(cached, cached_splits=["train", "val"])
    trainer(tmp_path, limit_val_batches=1).fit(ArrCocModule(model), again)


def test_each_command_builds_the_splits_that_it_reads(model: ArrCocQwen3VL, tmp_path: Path) -> None:
    cached = tmp_path / "textures"
    data = Digits(cached)
    trainer(tmp_path).validate(ArrCocModule(model), data, verbose=False)
    assert entries(cached) == 2
    trainer(tmp_path).test(ArrCocModule(model), data, verbose=False)
    assert entries(cached) == 5
    trainer(tmp_path).predict(ArrCocModule(model), data)
    assert entries(cached) == 5
    trainer(tmp_path).fit(ArrCocModule(model), data)
    assert entries(cached) == 9


def test_a_cache_can_be_read_as_it_is(
    model: ArrCocQwen3VL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "textures"
    data = Digits(cached, recipe=recipe_of(model))
    data.prepare_data()
    assert entries(cached) == 9
    data = Digits(cached, build_textures=False)
    monkeypatch.setattr(TextureWriter, "__enter__", None)
    trainer(tmp_path).fit(ArrCocModule(model), data)
    trainer(tmp_path).test(ArrCocModule(model), data, verbose=False)


def test_without_a_cache_nothing_is_looked_up(model: ArrCocQwen3VL, tmp_path: Path) -> None:
    data = Digits(None, processor=model.processor)
    data.prepare_data()
    data.setup("fit")
    assert "textures" not in next(iter(data.val_dataloader()))["inputs"]


def test_splits_that_are_not_cached_are_left_to_the_model(
    model: ArrCocQwen3VL, tmp_path: Path
) -> None:
    data = Digits(
        tmp_path, cached_splits=["val"], processor=model.processor, recipe=recipe_of(model)
    )
    data.prepare_data()
    assert entries(tmp_path) == 2
    assert "textures" in next(iter(data.val_dataloader()))["inputs"]
    assert "textures" not in next(iter(data.train_dataloader()))["inputs"]
    assert "textures" not in next(iter(data.test_dataloader()))["inputs"]
    data.cached_splits = ()
    assert "textures" not in next(iter(data.val_dataloader()))["inputs"]


def test_a_data_module_follows_from_one_model_to_another(
    model: ArrCocQwen3VL, tmp_path: Path
) -> None:
    """Even where it has a processor of its own, so that nothing else has changed."""
    other = copy.deepcopy(model)
    other.arr_coc.texture = TextureGenerator(["blue", "red"])
    data = Digits(tmp_path / "textures", processor=model.processor)
    for asked, channels, there in ((model, 13, 2), (other, 2, 4)):
        data.trainer = SimpleNamespace(  # type: ignore[assignment]
            lightning_module=WithTextures(asked),
            state=SimpleNamespace(fn="validate"), num_devices=1, accelerator=None,
        )  # fmt: skip
        data.prepare_data()
        assert entries(tmp_path / "textures") == there
        for batch in data.val_dataloader():
            assert {one.shape[0] for one in batch["inputs"]["textures"]} == {channels}


class WithTextures(nn.Module):
    """Says how the textures of a model come about, and no more."""

    def __init__(self, model: ArrCocQwen3VL) -> None:
        super().__init__()
        self.model = model

    def texture_recipe(self, processor: ChatProcessor) -> TextureRecipe:
        return TextureRecipe(processor, self.model.arr_coc.texture)


def test_every_stage_is_cached(model: ArrCocQwen3VL, tmp_path: Path) -> None:
    stages = [samples()[:1], samples()[3:]]
    data = VqaDataModule(StagedDataset(stages), texture_cache=tmp_path, recipe=recipe_of(model))
    data.prepare_data()
    assert entries(tmp_path) == 2


# ------------------------------------------------------------------------------------ bad input


def test_a_cache_that_is_to_be_read_and_is_not_there_is_refused_before_the_run(
    model: ArrCocQwen3VL, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match="No texture cache in"):
        trainer(tmp_path).fit(
            ArrCocModule(model), Digits(tmp_path / "nothing", build_textures=False)
        )


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cached_splits=\['valid'\]; choose from train, val"):
        VqaDataModule(cached_splits=["valid"])


def test_a_module_that_does_not_say_how_textures_come_about_is_refused(tmp_path: Path) -> None:
    data = Digits(tmp_path, processor=lambda *_: {})
    with pytest.raises(MisconfigurationException, match=r"VqaDataModule\(recipe=...\)"):
        data.prepare_data()


def test_a_model_whose_textures_cannot_be_told_apart_is_refused(
    model: ArrCocQwen3VL, tmp_path: Path
) -> None:
    other = copy.deepcopy(model)
    other.arr_coc.texture = nn.Identity()
    with pytest.raises(ValueError, match="Identity has no `fingerprint`"):
        trainer(tmp_path).validate(ArrCocModule(other), Digits(tmp_path), verbose=False)


def test_digests_must_be_as_many_as_images(model: ArrCocQwen3VL, tmp_path: Path) -> None:
    wrong = Sample((Image.new("RGB", (64, 64)),), (Turn("?", "7"),), digests=("a" * 64, "b" * 64))
    with pytest.raises(ValueError, match="2 digests for 1 images"):
        build_textures(tmp_path, [[wrong]], recipe_of(model))
