"""Opening pictures from outside, safely."""

from __future__ import annotations

import struct
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from lightning_arrcoc.data.picture_folder import read_file

FORMATS = ("PNG", "JPEG", "WEBP")
FIRST_SAFE_FOR_JPEG = 13  # major version of Pillow; CVE-2026-112403 before it
MOST_PIXELS = 64_000_000  # chosen by us: an 8000x8000 picture; 192 MB once decoded
MOST_ELONGATED = 200  # Qwen's image processor takes no longer and narrower ones

ORIENTATION_TAG = 0x0112
# Read by hand: ImageOps.exif_transpose rewrites the whole block and stumbles over odd tags.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(path: str | Path, *, most_pixels: int = MOST_PIXELS) -> Image.Image:
    """Read a picture file as RGB, turned as its EXIF says.

    Args:
        path: a PNG, JPEG or WebP file.
        most_pixels: refuse larger ones before they are decoded.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no regular file, or as for `decode_image`.
    """
    return decode_image(read_file(path), str(path), most_pixels=most_pixels)


def decode_image(content: bytes, name: str, *, most_pixels: int = MOST_PIXELS) -> Image.Image:
    """Decode a picture as RGB, turned as its EXIF says: a function of these bytes alone.

    Colours printed in cyan, magenta, yellow and black become light, 16 bits become 8. One that
    moves is refused: nobody can tell which of its frames a question is about, and the first is
    often empty. Several photographs in one JPEG (MPO, as phones write them) are no film: the first
    is the photograph.

    Args:
        content: PNG, JPEG or WebP, with everything that stands in the file.
        name: what errors call it.
        most_pixels: refuse larger ones before they are decoded.

    Raises:
        ValueError: it is none of these formats, damaged, animated, too large or too narrow; or a
            JPEG while the installed Pillow cannot be trusted with one.
    """
    formats = allowed_formats()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(BytesIO(content), formats=formats) as picture:
                _check_header(picture, most_pixels)
                picture.load()
                turned = TURNS.get(picture.getexif().get(ORIENTATION_TAG, 1))
                upright = picture if turned is None else picture.transpose(turned)
                return _as_rgb(upright)
    except _RefusedError as error:
        raise ValueError(f"{name!r} {error}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{name!r} is too large: {error}") from error
    except (OSError, SyntaxError, ValueError, TypeError, struct.error) as error:
        # PIL tells broken headers and EXIF blocks by all of these, text chunks that unfold to
        # megabytes by a ValueError.
        unsafe = "" if formats == FORMATS else " (JPEG is refused: Pillow is older than 13.)"
        raise ValueError(
            f"{name!r} cannot be read as {', '.join(formats)}: {_reason(error, content)}. Save it "
            f"anew in one of these formats.{unsafe}"
        ) from error


def allowed_formats(pillow: str = PIL.__version__) -> tuple[str, ...]:
    """Formats that a version of Pillow decodes safely."""
    if int(pillow.split(".")[0]) >= FIRST_SAFE_FOR_JPEG:
        return FORMATS
    return tuple(name for name in FORMATS if name != "JPEG")


def _as_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):  # PIL would clip at 255 instead of scaling
        grey = np.asarray(picture, dtype=np.uint16) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    return picture.convert("RGB")


class _RefusedError(ValueError):
    """What a header says is enough."""


def _check_header(picture: ImageFile, most_pixels: int) -> None:
    width, height = picture.size
    if width * height > most_pixels:
        raise _RefusedError(
            f"has {width}x{height} pixels; expected at most {most_pixels}. Make it smaller first."
        )
    if max(width, height) > MOST_ELONGATED * min(width, height):
        raise _RefusedError(
            f"has {width}x{height} pixels; expected one side at most {MOST_ELONGATED} times the "
            "other. Cut or pad it."
        )
    if getattr(picture, "is_animated", False) and picture.format != "MPO":
        raise _RefusedError("is animated; expected a still picture. Save the frame that is meant.")


def _reason(error: Exception, content: bytes) -> str:
    """What is wrong, without the address of the memory that PIL was given instead of a file."""
    if isinstance(error, UnidentifiedImageError):
        return "no such picture" if content else "the file is empty"
    return str(error)
