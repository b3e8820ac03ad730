"""Opening pictures from outside, safely."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP")
FIRST_SAFE_FOR_JPEG = 13  # major version of Pillow; CVE-2026-112403 before it
MOST_PIXELS = 64_000_000  # chosen by us: an 8000x8000 picture; 192 MB once decoded

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
    """Read a picture as RGB, turned as its EXIF says.

    Args:
        path: a PNG, JPEG or WebP file.
        most_pixels: refuse larger ones before they are decoded.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is none of these formats, damaged, or too large; or a JPEG while the
            installed Pillow cannot be trusted with one.
    """
    formats = allowed_formats()
    if not Path(path).is_file():
        raise FileNotFoundError(f"No picture {str(path)!r}; expected a file.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=formats) as picture:
                width, height = picture.size
                if width * height > most_pixels:
                    raise ValueError(
                        f"{str(path)!r} has {width}x{height} pixels; expected at most "
                        f"{most_pixels}. Make it smaller first."
                    )
                picture.load()
                turned = TURNS.get(picture.getexif().get(ORIENTATION_TAG, 1))
                upright = picture if turned is None else picture.transpose(turned)
                return _as_rgb(upright)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{str(path)!r} is too large: {error}") from error
    except (OSError, SyntaxError, ValueError, TypeError, struct.error) as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        # PIL tells broken headers and EXIF blocks by all of these.
        unsafe = "" if formats == FORMATS else " (JPEG is refused: Pillow is older than 13.)"
        raise ValueError(
            f"{str(path)!r} cannot be read as {', '.join(formats)}: {error}. Save it anew in one "
            f"of these formats.{unsafe}"
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
