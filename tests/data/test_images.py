"""Pictures from outside become RGB or a clear refusal."""

import os
import random
import struct
import warnings
import zlib

import pytest
from PIL import Image, ImageFile

from lightning_arrcoc.data import images as images_module
from lightning_arrcoc.data import picture_folder
from lightning_arrcoc.data.images import (
    FORMATS,
    MOST_PIXELS,
    allowed_formats,
    decode_image,
    open_image,
)
from lightning_arrcoc.vlm.chat import ChatProcessor
from lightning_arrcoc.vlm.loading import TINY_FOLDER

SIZE = (40, 20)
ALLOWED = allowed_formats()  # JPEG is missing where Pillow decodes it unsafely


def png(width, height, rows=b"", *, depth=8, colour_type=2, extra=()):
    """A PNG by hand: what its header claims and what it holds may differ.

    `extra` are chunks, name and body, between header and pixels.
    """

    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(rows)) if rows else b""
    extras = b"".join(chunk(name, body) for name, body in extra)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extras + data + chunk(b"IEND", b"")


def half_red(mode="RGB"):
    """Left half red, right half blue."""
    image = Image.new("RGB", SIZE, (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, SIZE[0] // 2, SIZE[1]))
    return image.convert(mode)


def assert_about(pixel, colour, tolerance=12):
    assert pixel == pytest.approx(colour, abs=tolerance)


@pytest.fixture
def saved(tmp_path):
    """Saves an image and gives its path."""

    def save(image, kind, name="picture", **options):
        path = tmp_path / name
        image.save(path, kind, **options)
        return path

    return save


@pytest.fixture
def written(tmp_path):
    """Writes bytes and gives their path."""

    def write(content, name="picture.png"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


@pytest.fixture
def never_decoded(monkeypatch):
    def load(self):
        raise AssertionError("decoded before its size was judged")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)


# ------------------------------------------------------------------------------- what is opened


@pytest.mark.parametrize("kind", ALLOWED)
@pytest.mark.parametrize("as_text", [False, True])
def test_every_allowed_format_opens(saved, kind, as_text):
    path = saved(half_red(), kind)
    image = open_image(str(path) if as_text else path)
    assert image.mode == "RGB"
    assert image.size == SIZE
    assert_about(image.getpixel((5, 10)), (255, 0, 0))
    assert_about(image.getpixel((35, 10)), (0, 0, 255))


@pytest.mark.parametrize("kind", ALLOWED)
def test_pictures_are_turned_as_their_exif_says(saved, kind):
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera turned: the left side is shown on top
    image = open_image(saved(half_red(), kind, exif=exif))
    assert image.size == SIZE[::-1]
    assert_about(image.getpixel((10, 5)), (255, 0, 0))
    assert_about(image.getpixel((10, 35)), (0, 0, 255))


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("PNG", "RGBA"),
        ("PNG", "P"),
        ("PNG", "L"),
        ("PNG", "LA"),
        ("PNG", "1"),
        ("JPEG", "CMYK"),
        ("JPEG", "L"),
        ("WEBP", "RGBA"),
    ],
)
def test_every_colour_mode_becomes_rgb(saved, kind, mode):
    if kind not in ALLOWED:
        pytest.skip(f"this Pillow must not decode {kind}")
    original = half_red(mode)
    image = open_image(saved(original, kind))
    assert image.mode == "RGB"
    assert image.size == SIZE
    for x in (5, 35):
        assert_about(image.getpixel((x, 10)), original.convert("RGB").getpixel((x, 10)))


def test_a_palette_with_a_transparent_colour_becomes_rgb(saved):
    path = saved(half_red("P"), "PNG", transparency=0)
    with Image.open(path) as stored:
        assert (stored.mode, stored.info["transparency"]) == ("P", 0)
    image = open_image(path)
    assert image.mode == "RGB"
    assert_about(image.getpixel((5, 10)), (255, 0, 0))


def test_16_bits_a_colour_become_8(written):
    rows = b"".join(b"\0" + struct.pack(">3H", 0, 0x8000, 0xFFFF) * 2 for _ in range(3))
    image = open_image(written(png(2, 3, rows, depth=16)))
    assert image.size == (2, 3)
    assert image.getcolors() == [(6, (0, 128, 255))]


@pytest.mark.parametrize(
    ("ink", "colour"),
    [
        ((0, 255, 255, 0), (255, 0, 0)),
        ((255, 0, 255, 0), (0, 255, 0)),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((0, 0, 0, 0), (255, 255, 255)),
    ],
)
def test_printed_colours_become_light(saved, ink, colour):
    if "JPEG" not in ALLOWED:
        pytest.skip("this Pillow must not decode JPEG")
    image = open_image(saved(Image.new("CMYK", SIZE, ink), "JPEG", quality=95))
    assert_about(image.getpixel((5, 10)), colour, tolerance=3)


def test_a_grey_picture_of_16_bits_is_scaled_and_not_cut_off(written):
    rows = b"".join(b"\0" + struct.pack(">2H", 0x1000, 0xFFFF) for _ in range(2))
    image = open_image(written(png(2, 2, rows, depth=16, colour_type=0)))
    assert [image.getpixel((x, 0)) for x in range(2)] == [(15, 15, 15), (255, 255, 255)]


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1)])
def test_a_picture_of_a_pixel_opens_and_the_processor_takes_it(saved, size):
    image = open_image(saved(Image.new("RGB", size, (255, 0, 0)), "PNG"))
    assert image.size == size
    processor = ChatProcessor.from_pretrained(TINY_FOLDER)
    encoded = processor([{"images": [image], "questions": ["?"], "answers": []}])
    red, green, blue = encoded["pixel_values"].view(-1, 3, 512).mean((0, 2)).tolist()
    assert red > green == pytest.approx(blue)


def test_the_photograph_of_several_in_one_jpeg_is_taken(saved):
    """Phones write a smaller copy or a map of light behind it."""
    if "JPEG" not in ALLOWED:
        pytest.skip("this Pillow must not decode JPEG")
    path = saved(half_red(), "MPO", save_all=True, append_images=[Image.new("RGB", SIZE)])
    assert_about(open_image(path).getpixel((5, 10)), (255, 0, 0))


def test_bytes_decode_as_their_file_does(saved):
    path = saved(half_red(), "PNG")
    decoded = decode_image(path.read_bytes(), "a name")
    assert decoded.tobytes() == open_image(path).tobytes()


def test_a_picture_of_just_as_many_pixels_as_allowed_opens(saved):
    path = saved(half_red(), "PNG")
    assert open_image(path, most_pixels=SIZE[0] * SIZE[1]).size == SIZE


def test_the_file_is_closed_behind_it(saved):
    path = saved(half_red(), "PNG")
    image = open_image(path)
    path.unlink()
    assert image.getpixel((5, 10)) == (255, 0, 0)


# ------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("name", ["absent.png", ""])
def test_a_missing_file_or_a_folder_is_not_found(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"No picture '.*'; expected a file"):
        open_image(tmp_path / name)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "PPM", "EPS", "ICO"])
def test_another_format_is_refused_whatever_its_name(saved, kind):
    path = saved(half_red(), kind, name="innocent.png")
    with pytest.raises(ValueError, match=r"innocent.png' cannot be read as PNG, (JPEG, )?WEBP: "):
        open_image(path)


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"just words, no picture", b"\xff\xd8\xff", png(4, 4)]
)
def test_what_is_no_picture_is_refused(written, content):
    with pytest.raises(ValueError, match=r"cannot be read as PNG, (JPEG, )?WEBP: .*Save it anew"):
        open_image(written(content))


@pytest.mark.parametrize("kind", ALLOWED)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_half_a_file_is_refused(saved, written, kind, share):
    content = saved(Image.effect_noise((64, 64), 80), kind).read_bytes()
    with pytest.raises(ValueError, match="cannot be read as"):
        open_image(written(content[: int(share * len(content))]))


def test_a_png_whose_width_is_not_what_its_checksum_says_is_refused(saved, written):
    content = bytearray(saved(half_red(), "PNG").read_bytes())
    content[17] ^= 1
    with pytest.raises(ValueError, match="cannot be read as"):
        open_image(written(bytes(content)))


def test_a_png_whose_data_is_longer_than_it_says_is_refused(written):
    noise = random.Random(0)
    content = png(64, 64, b"".join(b"\0" + noise.randbytes(3 * 64) for _ in range(64)))
    (length,) = struct.unpack_from(">I", content, 33)
    shorter = content[:33] + struct.pack(">I", length // 2) + content[37:]
    # PIL tells this one by a SyntaxError of its own.
    with pytest.raises(ValueError, match=r"cannot be read as .* broken PNG file"):
        open_image(written(shorter))


@pytest.mark.parametrize(
    ("width", "height", "message"),
    [
        (60_000, 60_000, "is too large"),  # PIL's error
        (11_000, 11_000, "is too large"),  # PIL's warning
        (20_000, 20_000, "is too large"),
        (8_001, 8_000, rf"has 8001x8000 pixels; expected at most {MOST_PIXELS}. Make it smaller"),
    ],
)
def test_a_header_that_claims_a_huge_picture_is_believed(
    written, never_decoded, width, height, message
):
    with pytest.raises(ValueError, match=message):
        open_image(written(png(width, height, b"\0")))


def test_a_small_file_that_unfolds_to_a_huge_picture_is_refused(written, never_decoded):
    rows = bytes((3 * 20_000 + 1) * 1_000)
    content = png(20_000, 20_000, rows)
    assert len(content) < 100_000
    with pytest.raises(ValueError, match="is too large"):
        open_image(written(content))


def test_what_pillow_only_warns_of_is_refused_whoever_silenced_it(monkeypatch, saved):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)  # a warning up to twice that
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="is too large"):
            open_image(saved(Image.new("RGB", (90, 60)), "PNG"))


@pytest.mark.parametrize("name", [b"zTXt", b"iTXt", b"iCCP"])
def test_a_small_chunk_that_unfolds_to_megabytes_of_text_is_refused(written, never_decoded, name):
    between = b"\0\1\0\0\0" if name == b"iTXt" else b"\0\0"
    body = b"Comment" + between + zlib.compress(bytes(100_000_000), 9)
    content = png(4, 4, bytes(13 * 4), extra=[(name, body)])
    assert len(content) < 200_000
    with pytest.raises(ValueError, match=r"cannot be read as .*[Tt]oo large"):
        open_image(written(content))


@pytest.mark.parametrize("size", [(201, 1), (1, 201), (2, 401)])
def test_a_picture_too_narrow_for_the_processor_is_refused(saved, size):
    path = saved(Image.new("RGB", size), "PNG")
    with pytest.raises(ValueError, match=r"pixels; expected one side at most 200 times the other"):
        open_image(path)
    with pytest.raises(ValueError, match="aspect ratio"):
        ChatProcessor.from_pretrained(TINY_FOLDER).image_processor(images=[Image.open(path)])


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_what_moves_is_refused(saved, never_decoded, kind):
    path = saved(half_red(), kind, save_all=True, append_images=[Image.new("RGB", SIZE)])
    with pytest.raises(ValueError, match=r"is animated; expected a still picture\. Save the frame"):
        open_image(path)


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="is a pipe, a socket or a device"):
        open_image(tmp_path / "pipe.png")


def test_a_device_is_not_opened():
    with pytest.raises(ValueError, match="is a pipe, a socket or a device"):
        open_image("/dev/zero")


def test_a_file_of_more_bytes_than_any_picture_needs_is_refused(monkeypatch, saved):
    monkeypatch.setattr(picture_folder, "MOST_BYTES", 20)
    with pytest.raises(ValueError, match="is larger than 0 MiB"):
        open_image(saved(half_red(), "PNG"))


def test_errors_name_the_file_and_nothing_of_the_memory_it_was_read_to(written):
    with pytest.raises(ValueError, match="cannot be read") as caught:
        open_image(written(b"no picture"))
    assert "0x" not in str(caught.value)


def test_the_cap_can_be_lowered(saved, never_decoded):
    path = saved(half_red(), "PNG")
    with pytest.raises(ValueError, match="has 40x20 pixels; expected at most 799"):
        open_image(path, most_pixels=799)


def test_no_decoder_but_the_allowed_ones_is_ever_tried(monkeypatch, written):
    Image.init()  # all decoders, EPS with its Ghostscript among them
    tried = set()

    def watched(name, accept):
        def ask(prefix):
            tried.add(name)
            return accept(prefix) if accept else True

        return ask

    for name, (factory, accept) in list(Image.OPEN.items()):
        monkeypatch.setitem(Image.OPEN, name, (factory, watched(name, accept)))
    with pytest.raises(ValueError, match="cannot be read as"):
        open_image(written(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"))
    assert tried == set(ALLOWED)


@pytest.mark.parametrize(
    ("pillow", "formats"),
    [
        ("12.3.0", ("PNG", "WEBP")),
        ("9.5.0", ("PNG", "WEBP")),
        ("13.0.0", FORMATS),
        ("14.1.0.dev0", FORMATS),
    ],
)
def test_a_pillow_that_decodes_jpeg_unsafely_is_not_given_one(monkeypatch, saved, pillow, formats):
    assert allowed_formats(pillow) == formats
    monkeypatch.setattr(images_module, "allowed_formats", lambda: allowed_formats(pillow))
    path = saved(half_red(), "JPEG")
    if "JPEG" in formats:
        assert open_image(path).size == SIZE
    else:
        with pytest.raises(ValueError, match="cannot be read as PNG, WEBP: "):
            open_image(path)
