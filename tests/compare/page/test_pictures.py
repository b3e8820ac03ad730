"""What the browser sends as a picture, and what may not be opened."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image, JpegImagePlugin

from lightning_arrcoc.compare.page import pictures
from lightning_arrcoc.compare.page.pictures import picture_of, png_url, thumbnail_url
from lightning_arrcoc.data import images
from lightning_arrcoc.data.images import allowed_formats

MOST = 10_000


def url_of(image: Image.Image, kind: str, called: str | None = None) -> str:
    file = io.BytesIO()
    image.save(file, kind)
    called = called or kind.lower()
    return f"data:image/{called};base64,{base64.b64encode(file.getvalue()).decode()}"


@pytest.fixture
def pillow(monkeypatch: pytest.MonkeyPatch):
    def pretend(version: str) -> None:
        def formats() -> tuple[str, ...]:
            return allowed_formats(version)

        monkeypatch.setattr(images, "allowed_formats", formats)
        monkeypatch.setattr(pictures, "allowed_formats", formats)

    return pretend


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes whenever Pillow begins to decode a JPEG."""
    begun: list[str] = []
    usual = JpegImagePlugin.JpegImageFile._open

    def noting(self: JpegImagePlugin.JpegImageFile) -> None:
        begun.append("JPEG")
        usual(self)

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "_open", noting)
    return begun


def test_every_pixel_arrives_as_it_was_sent(image: Image.Image) -> None:
    assert picture_of(png_url(image), image.width * image.height).tobytes() == image.tobytes()


@pytest.mark.parametrize("called", ["jpeg", "png"])
def test_a_jpeg_reaches_no_decoder_that_is_unsafe_whatever_it_is_called(
    called: str, image: Image.Image, pillow, decoded: list[str]
) -> None:
    pillow("12.3.0")
    with pytest.raises(ValueError, match=r"JPEG is refused.*older than 13.*turns it into PNG"):
        picture_of(url_of(image, "JPEG", called), 10**6)
    assert decoded == []


def test_a_pillow_that_is_new_enough_lifts_that_by_itself(
    image: Image.Image, pillow, decoded: list[str]
) -> None:
    pillow("13.0.0")
    assert picture_of(url_of(image, "JPEG"), 10**6).size == image.size
    assert decoded == ["JPEG"]  # the spy sees it


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (None, "no picture yet"),
        ("", "no picture yet"),
        ("/etc/passwd", "expected PNG or WebP"),
        ("file:///etc/passwd", "expected PNG or WebP"),
        ("http://127.0.0.1/a.png", "expected PNG or WebP"),
        ({"path": "/etc/passwd"}, "expected PNG or WebP"),
        ("data:image/png;base64,%%%", "damaged"),
        ("data:image/png;base64,aGVsbG8=", "cannot be read"),
    ],
)
def test_what_is_no_picture_is_refused_in_words(sent: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        picture_of(sent, MOST)  # type: ignore[arg-type]


def test_a_corrupt_picture_is_refused_in_words(image: Image.Image) -> None:
    url, head = png_url(image), len("data:image/png;base64,")
    with pytest.raises(ValueError, match=r"'The picture' cannot be read"):
        picture_of(url[: head + len(url) // 8 * 4], 10**6)


def test_pixels_are_counted_before_they_are_decoded() -> None:
    with pytest.raises(ValueError, match="101x100 pixels; expected at most 10000"):
        picture_of(png_url(Image.new("RGB", (101, 100))), MOST)


def test_a_thumbnail_is_small_and_leaves_the_picture_alone() -> None:
    large = Image.new("RGB", (2000, 1000))
    assert picture_of(thumbnail_url(large), 10**7).size == (768, 384)
    assert large.size == (2000, 1000)
