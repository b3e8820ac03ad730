"""What is stored under a key is that image's, or is known to be damaged."""

from __future__ import annotations

import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lightning_arrcoc.data.texture_entry import pack, texture_key, unpack

KEY = b"k" * 64
GRID = (2, 3)


def textures(channels: int = 4, rows: int = 2, columns: int = 3) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.rand(channels, rows, columns, generator=random).half()


def key(image: Image.Image, digest: str | None = None, made: str = "made so") -> bytes:
    return texture_key(image, digest, made, GRID)


def noise(mode: str = "RGB", size: tuple[int, int] = (96, 64), seed: int = 0) -> Image.Image:
    count = size[0] * size[1] * len(Image.new(mode, (1, 1)).getbands())
    return Image.frombytes(mode, size, bytes((seed + 7 * i) % 256 for i in range(count)))


# --------------------------------------------------------------------------------------- values


@given(st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4)))
def test_what_is_packed_comes_back_bit_for_bit(shape: tuple[int, int, int]) -> None:
    packed = textures(*shape)
    found = unpack(KEY, memoryview(pack(KEY, packed)))
    assert found is not None
    assert found.dtype == torch.float16
    assert torch.equal(found, packed)


def test_a_view_that_is_not_contiguous_is_packed_in_its_own_order() -> None:
    turned = textures(3, 3, 2).transpose(1, 2)
    found = unpack(KEY, memoryview(pack(KEY, turned)))
    assert found is not None
    assert torch.equal(found, turned)


def test_what_comes_back_has_memory_of_its_own() -> None:
    packed = bytearray(pack(KEY, textures()))
    found = unpack(KEY, memoryview(packed))
    assert found is not None
    before = found.clone()
    packed[:] = bytes(len(packed))
    found += 0  # and can be written
    assert torch.equal(found, before)


def test_a_flipped_bit_anywhere_is_noticed() -> None:
    packed = pack(KEY, textures(1, 2, 2))
    for place in range(len(packed)):
        for bit in range(8):
            damaged = bytearray(packed)
            damaged[place] ^= 1 << bit
            assert unpack(KEY, memoryview(damaged)) is None, (place, bit)


@pytest.mark.parametrize("length", [0, 5, 31, 32, 40, -1])
def test_what_is_too_short_is_noticed(length: int) -> None:
    assert unpack(KEY, memoryview(pack(KEY, textures())[:length])) is None


def test_what_lies_under_another_images_key_is_noticed() -> None:
    assert unpack(b"o" * 64, memoryview(pack(KEY, textures()))) is None


def test_a_whole_checksum_over_something_else_is_no_entry() -> None:
    for body in (b"", b"ARR", b"XXXX" + pack(KEY, textures())[4:-32], pack(KEY, textures())[:-34]):
        assert unpack(KEY, memoryview(body + hashlib.sha256(KEY + body).digest())) is None


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (textures().float(), "torch.float32"),
        (textures()[0], r"shape \(2, 3\)"),
        (torch.zeros(1, 1, 70000).half(), "too long an axis"),
    ],
)
def test_what_is_no_texture_is_refused(wrong: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pack(KEY, wrong)


# ----------------------------------------------------------------------------------------- keys


def test_a_key_is_the_same_in_every_process() -> None:
    assert key(noise(), "f" * 64) == (
        hashlib.sha256(f"file {'f' * 64} 96x64 made so 2x3".encode()).hexdigest().encode()
    )
    assert key(noise()) == key(noise())


def test_a_key_follows_every_pixel() -> None:
    image = noise()
    other = image.copy()
    other.putpixel((95, 63), (0, 0, 1))
    assert key(image) != key(other)


def test_a_key_follows_size_mode_palette_and_transparency() -> None:
    assert key(noise(size=(96, 64))) != key(noise(size=(64, 96)))
    assert key(noise("L")) != key(noise("L").convert("RGB"))
    one, other = noise("P"), noise("P")
    one.putpalette([i % 256 for i in range(768)])
    other.putpalette([(i + 1) % 256 for i in range(768)])
    assert one.tobytes() == other.tobytes()
    assert key(one) != key(other)
    clear = noise("RGBA")
    solid = clear.copy()
    solid.putalpha(255)
    assert key(clear) != key(solid)


def test_a_known_digest_stands_for_the_pixels_and_is_no_hash_of_them() -> None:
    image = noise()
    assert key(image, "a" * 64) != key(image, "b" * 64) != key(image)
    assert key(image, "a" * 64) == key(noise(seed=3), "a" * 64)
    assert key(image, hashlib.sha256(image.tobytes()).hexdigest()) != key(image)
    assert key(image, "") == key(image)


def test_a_key_follows_how_textures_are_made_and_their_grid() -> None:
    assert key(noise(), made="made otherwise") != key(noise())
    assert texture_key(noise(), None, "made so", (3, 2)) != key(noise())
