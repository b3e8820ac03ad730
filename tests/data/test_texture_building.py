"""A build measures what is missing, once, and nothing that is there."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from lightning_arrcoc.data import lmdb_files
from lightning_arrcoc.data.missing_textures import STRETCH, MissingTextures
from lightning_arrcoc.data.sample import Sample, Turn
from lightning_arrcoc.data.texture_building import (
    BATCH,
    Built,
    build_textures,
    part_of,
    shown_progress,
)
from lightning_arrcoc.data.texture_cache import TextureCache, TextureWriter
from lightning_arrcoc.data.texture_entry import texture_key


class MeanColour:
    """A recipe that is quick, and counts."""

    def __init__(self, fingerprint: str = "mean colour") -> None:
        self.fingerprint = fingerprint
        self.measured = 0

    def grid_of(self, image: Image.Image) -> tuple[int, int]:
        return image.height // 32, image.width // 32

    def cells(self, grid_thw: torch.Tensor) -> tuple[int, int]:
        raise NotImplementedError

    def measure(self, image: Image.Image) -> torch.Tensor:
        self.measured += 1
        colour = torch.tensor(image.resize((1, 1)).getpixel((0, 0)))
        return (colour / 255)[:, None, None].expand(-1, *self.grid_of(image)).half()

    def measure_patches(self, patches: torch.Tensor, grid_thw: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


def picture(number: int, size: tuple[int, int] = (64, 32)) -> Image.Image:
    return Image.new("RGB", size, (number % 256, number // 256, 7))


def asked(*numbers: int) -> list[Sample]:
    return [Sample((picture(number),), (Turn("?", "!"),)) for number in numbers]


def key(image: Image.Image, recipe: MeanColour, digest: str | None = None) -> bytes:
    return texture_key(image, digest, recipe.fingerprint, recipe.grid_of(image))


def build(folder: Path, samples: Sequence[Sample], recipe: MeanColour | None = None) -> Built:
    return build_textures(folder, [samples], recipe or MeanColour())


# --------------------------------------------------------------------------------- what is missing


def test_every_image_is_there_afterwards_as_it_is_measured(tmp_path: Path) -> None:
    recipe = MeanColour()
    sources = [asked(1, 2, 3), asked(4, 5)]
    built = build_textures(tmp_path, sources, recipe)
    assert (built.images, built.measured) == (5, 5)
    assert built.images_a_second == 5 / built.seconds
    cache = TextureCache(tmp_path)
    assert len(cache) == 5
    for image in (sample.images[0] for source in sources for sample in source):
        found = cache.get(key(image, recipe))
        assert found is not None
        assert torch.equal(found, recipe.measure(image))


def test_what_is_there_is_not_measured_again(tmp_path: Path) -> None:
    build(tmp_path, asked(*range(20)))
    recipe = MeanColour()
    assert build(tmp_path, asked(*range(25)), recipe)[:2] == (25, 5)
    assert recipe.measured == 5


def test_an_image_that_comes_several_times_is_measured_once(tmp_path: Path) -> None:
    twice = Sample((picture(1), picture(2), picture(1)), (Turn("?", "!"),))
    recipe = MeanColour()
    built = build(tmp_path, [twice, *asked(2, 2, *range(3 * STRETCH)), twice], recipe)
    assert built.images == 3 + 2 + 3 * STRETCH + 3
    assert built.measured == recipe.measured == len(TextureCache(tmp_path)) == 3 * STRETCH


@pytest.mark.parametrize(
    "change",
    ["the image", "its size", "the recipe", "its digest"],
)
def test_what_changed_is_measured_anew(tmp_path: Path, change: str) -> None:
    (sample,) = asked(1)
    sample = sample._replace(digests=("a" * 64,) if change == "its digest" else ())
    build(tmp_path, [sample])
    recipe = MeanColour("another" if change == "the recipe" else "mean colour")
    changed = {
        "the image": sample._replace(images=(picture(2),)),
        "its size": sample._replace(images=(picture(1, (32, 64)),)),
        "the recipe": sample,
        "its digest": sample._replace(digests=("b" * 64,)),
    }[change]
    assert build(tmp_path, [sample])[:2] == (1, 0)
    assert build(tmp_path, [changed], recipe)[:2] == (1, 1)
    assert len(TextureCache(tmp_path)) == 2


def test_a_damaged_entry_is_mended_and_no_other_touched(tmp_path: Path) -> None:
    build(tmp_path, asked(1, 2, 3))
    recipe = MeanColour()
    with TextureWriter(tmp_path) as writer:
        writer.put({key(picture(2), recipe): b"damaged"})
    assert TextureCache(tmp_path).get(key(picture(2), recipe)) is None
    assert build(tmp_path, asked(1, 2, 3), recipe)[:2] == (3, 1)
    assert TextureCache(tmp_path).get(key(picture(2), recipe)) is not None


def test_a_known_digest_spares_hashing_the_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sample,) = asked(1)
    build(tmp_path, [sample._replace(digests=("c" * 64,))])
    monkeypatch.setattr(Image.Image, "tobytes", None)
    assert build(tmp_path, [sample._replace(digests=("c" * 64,))])[:2] == (1, 0)


def test_nothing_to_do_is_done_at_once(tmp_path: Path) -> None:
    assert build_textures(tmp_path, [], MeanColour())[:2] == (0, 0)
    assert len(TextureCache(tmp_path)) == 0


def test_rebuilding_measures_everything(tmp_path: Path) -> None:
    build(tmp_path, asked(*range(9)))
    built = build_textures(tmp_path, [asked(1, 2)], MeanColour(), rebuild=True)
    assert (built.measured, len(TextureCache(tmp_path))) == (2, 2)


# -------------------------------------------------------------------------- processes and shards


def test_workers_make_what_one_process_makes(tmp_path: Path) -> None:
    samples = asked(*range(100))
    build_textures(tmp_path / "one", [samples], MeanColour())
    built = build_textures(tmp_path / "several", [samples], MeanColour(), workers=2, batch=10)
    assert built[:2] == (100, 100)
    one, several = TextureCache(tmp_path / "one"), TextureCache(tmp_path / "several")
    recipe = MeanColour()
    for sample in samples:
        found = several.get(key(sample.images[0], recipe))
        expected = one.get(key(sample.images[0], recipe))
        assert found is not None
        assert expected is not None
        assert torch.equal(found, expected)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(("samples", "shards"), [(10, 3), (2, 3), (0, 2), (64, 8), (7, 1)])
def test_shards_share_the_samples_without_a_gap_or_an_overlap(samples: int, shards: int) -> None:
    parts = [part_of(samples, shard, shards) for shard in range(shards)]
    assert [index for part in parts for index in part] == list(range(samples))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_each_rank_writes_a_shard_of_its_own(tmp_path: Path) -> None:
    sources = [asked(*range(30)), asked(*range(30, 50))]
    for shard in range(3):
        built = build_textures(tmp_path, sources, MeanColour(), shard=shard, shards=3)
        assert built.measured == built.images in (16, 17)
    cache = TextureCache(tmp_path)
    assert len(cache) == 50
    assert [shard.name for shard in cache.shards()] == [f"shard-0000{i}.mdb" for i in range(3)]
    assert build_textures(tmp_path, sources, MeanColour())[:2] == (50, 0), (
        "other ranks, no more work"
    )


def test_a_shard_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shard=2 of shards=2; expected 0 to 1"):
        MissingTextures(TextureCache(tmp_path), [asked(1)], MeanColour(), shard=2, shards=2)


def test_progress_is_told_by_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[int] = []
    build_textures(tmp_path, [asked(*range(20))], MeanColour(), advance=told.append)
    assert told == [8, 8, 4]
    with shown_progress([asked(1, 2), asked(3)]) as advance:
        advance(3)
    with shown_progress([asked(1, 2), asked(3)], shard=1, shards=2) as advance:
        advance(1)


# --------------------------------------------------------------------------------- interruptions


class Stops(list[Sample]):
    """A source that raises at a sample."""

    def __init__(self, samples: Sequence[Sample], at: int, error: BaseException) -> None:
        super().__init__(samples)
        self.at, self.error = at, error

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        if index == self.at:
            raise self.error
        return super().__getitem__(index)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("no picture")])
def test_what_was_measured_before_an_interruption_is_safe_and_the_next_run_goes_on(
    tmp_path: Path, error: BaseException
) -> None:
    samples = asked(*range(100))
    stopped_at = BATCH + 2 * STRETCH
    with pytest.raises(type(error)):
        build(tmp_path, Stops(samples, stopped_at, error))
    assert len(TextureCache(tmp_path)) == stopped_at
    assert build(tmp_path, samples)[:2] == (100, 100 - stopped_at)


def test_an_error_of_a_worker_is_raised_here_and_what_came_before_is_safe(tmp_path: Path) -> None:
    samples = Stops(asked(*range(60)), 41, ValueError("no picture"))
    with pytest.raises(ValueError, match="no picture"):
        build_textures(tmp_path, [samples], MeanColour(), workers=1)
    assert len(TextureCache(tmp_path)) == 40


def test_a_batch_is_written_as_soon_as_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put: list[int] = []
    write = lmdb_files.write
    monkeypatch.setattr(
        lmdb_files, "write", lambda path, values: (put.append(len(values)), write(path, values))
    )
    build_textures(tmp_path, [asked(*range(60))], MeanColour(), batch=16)
    assert put == [1, 16, 16, 16, 12]  # the record of the version, then batches
