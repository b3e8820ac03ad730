"""Pictures to and from a browser, as data URLs: no file comes into being."""

from __future__ import annotations

import base64
import binascii
import io
import re

from PIL import Image

from lightning_arrcoc.data.images import allowed_formats, decode_image

DATA_URL = re.compile(r"data:image/[a-z+.-]{1,20};base64,")
THUMBNAIL_PX = 768  # Chosen by us: as sharp as a card can show on a dense screen
JPEG_STARTS = b"\xff\xd8\xff"


def picture_of(url: str | None, most_pixels: int) -> Image.Image:
    """What the browser sent, decoded. What the URL calls itself counts for nothing.

    Raises:
        ValueError: nothing was sent, or it is no picture that may be opened here. The words may be
            shown.
    """
    if not url:
        raise ValueError("There is no picture yet. Choose one, or take an example.")
    head = DATA_URL.match(url[:64]) if isinstance(url, str) else None
    if head is None:
        raise ValueError("That is no picture: expected PNG or WebP as the page sends it.")
    try:
        content = base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("The picture is damaged. Choose it again.") from None
    if content.startswith(JPEG_STARTS) and "JPEG" not in allowed_formats():
        raise ValueError(
            "JPEG is refused: this machine's Pillow is older than 13, whose decoder is unsafe. "
            "Choose the picture on the page, which turns it into PNG before it is sent."
        )
    return decode_image(content, "The picture", most_pixels=most_pixels)


def thumbnail_url(image: Image.Image) -> str:
    """What cards show of it, small enough to be sent along."""
    small = image.copy()
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    return _url(small, "WEBP", quality=85)


def png_url(image: Image.Image) -> str:
    """Every pixel as it is."""
    return _url(image, "PNG")


def _url(image: Image.Image, kind: str, **options: int) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
