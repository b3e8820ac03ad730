"""A picture measured away from the model has the textures that the model would measure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from lightning_arrcoc import ArrCocQwen3VL
from lightning_arrcoc.relevance import Realization, TextureGenerator, build_realizer
from lightning_arrcoc.vlm.chat import ChatProcessor
from lightning_arrcoc.vlm.loading import TINY_FOLDER
from lightning_arrcoc.vlm.texture_recipe import DECISIVE, TextureRecipe


def processor(**settings: object) -> ChatProcessor:
    made = ChatProcessor.from_pretrained(TINY_FOLDER)
    for name, value in settings.items():
        assert hasattr(made.image_processor, name)
        setattr(made.image_processor, name, value)
    return made


def recipe(channels: str | list[str] = "core", **settings: object) -> TextureRecipe:
    return TextureRecipe(processor(**settings), TextureGenerator(channels))


def picture(width: int, height: int) -> Image.Image:
    random = torch.Generator().manual_seed(width)
    pixels = torch.randint(0, 256, (height, width, 3), generator=random, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy()).resize((width, height), Image.Resampling.BOX)


# --------------------------------------------------------------------------------------- textures


@pytest.mark.parametrize("channels", ["core", "full"])
@pytest.mark.parametrize("size", [(384, 384), (300, 200), (65, 500)])
def test_textures_are_those_of_the_model_to_the_last_bit_of_fp16(
    channels: str, size: tuple[int, int], backbone_folder: Path
) -> None:
    model = ArrCocQwen3VL.from_pretrained(
        str(backbone_folder),
        arr_coc=lambda width: build_realizer(width, texture=TextureGenerator(channels)),
    ).eval()
    assert model.processor is not None
    found: list[Realization] = []
    model.arr_coc.register_forward_hook(lambda module, inputs, output: found.append(output))
    image = picture(*size)
    batch = model.processor([{"images": [image], "questions": ["What?"], "answers": ["7"]}])
    with torch.no_grad():
        model(**batch)
    ours = TextureRecipe(model.processor, model.arr_coc.texture).measure(image)
    assert ours.dtype == torch.float16
    assert torch.equal(ours, found[0].textures[0].half())
    assert ours.isfinite().all()


def test_from_patches_it_is_the_same() -> None:
    ours, image = recipe(), picture(200, 300)
    encoded = ours.processor.image_processor(images=[image], return_tensors="pt")
    patches = ours.measure_patches(encoded["pixel_values"], encoded["image_grid_thw"][0])
    assert torch.equal(patches, ours.measure(image))


@given(width=st.integers(10, 1500), height=st.integers(10, 1500))
@settings(max_examples=30, deadline=None)
def test_the_grid_is_known_before_the_picture_is_encoded(width: int, height: int) -> None:
    ours, image = recipe(), Image.new("RGB", (width, height))
    grid = ours.processor.image_processor(images=[image], return_tensors="pt")["image_grid_thw"]
    assert ours.grid_of(image) == ours.cells(grid[0])


def test_a_processor_that_resizes_otherwise_is_refused_and_not_believed() -> None:
    ours = recipe(do_resize=False, size={"shortest_edge": 1024, "longest_edge": 64 * 64})
    with pytest.raises(ValueError, match=r"made \(8, 8\) cells .* expected \(2, 2\)"):
        ours.measure(picture(256, 256))


# ------------------------------------------------------------------------------------ fingerprint

OTHERS: dict[str, object] = {
    "do_convert_rgb": False, "do_resize": False, "resample": 2, "do_rescale": False,
    "rescale_factor": 1 / 127, "do_normalize": False, "image_mean": [0.4, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.4], "patch_size": 8, "temporal_patch_size": 1, "merge_size": 4,
}  # fmt: skip


def test_a_fingerprint_is_the_same_every_time() -> None:
    assert recipe().fingerprint == recipe().fingerprint
    assert len(recipe().fingerprint) == 64


@pytest.mark.parametrize("name", DECISIVE)
def test_a_fingerprint_follows_what_changes_the_pixels(name: str) -> None:
    change = {name: OTHERS[name]}
    if name in ("patch_size", "merge_size"):  # a cell stays 32 px
        change = {"patch_size": 8, "merge_size": 4}
    assert recipe(**change).fingerprint != recipe().fingerprint


def test_limits_on_the_size_change_the_grid_alone() -> None:
    smaller = recipe(size={"shortest_edge": 4096, "longest_edge": 128 * 128})
    assert smaller.fingerprint == recipe().fingerprint
    assert smaller.grid_of(picture(256, 256)) == (4, 4)
    assert recipe().grid_of(picture(256, 256)) == (8, 8)


@pytest.mark.parametrize(
    "channels", ["full", ["red", "green"], ["green", "red"], ["red", "green", "blue"]]
)
def test_a_fingerprint_follows_channels_and_their_order(channels: str | list[str]) -> None:
    others = {"core": recipe(), "two": recipe(["red", "green"]), "turned": recipe(["green", "red"])}
    same = [name for name, other in others.items() if
            other.fingerprint == recipe(channels).fingerprint]  # fmt: skip
    expected = {"full": [], "red,green": ["two"], "green,red": ["turned"]}
    assert same == expected.get(channels if channels == "full" else ",".join(channels), [])


# ------------------------------------------------------------------------------------- bad input


def test_textures_that_do_not_say_what_they_measure_cannot_be_cached() -> None:
    with pytest.raises(ValueError, match="Identity has no `fingerprint`"):
        TextureRecipe(processor(), nn.Identity())


def test_cells_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="cover 28 px"):
        recipe(patch_size=14)


def test_it_can_be_handed_to_other_processes() -> None:
    import pickle

    ours = recipe()
    copied: Callable[..., torch.Tensor] = pickle.loads(pickle.dumps(ours)).measure
    assert torch.equal(copied(picture(64, 96)), ours.measure(picture(64, 96)))
