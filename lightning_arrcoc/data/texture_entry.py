"""One image's textures as bytes, and the key they are found by."""

from __future__ import annotations

import hashlib
import math
import struct

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MAGIC = b"ARRT"
HEADER = struct.Struct("<4s3H")  # magic, channels, rows, columns; fp16 values follow, then a sha256
CHECKSUM_BYTES = 32


def texture_key(
    image: Image.Image, digest: str | None, fingerprint: str, grid: tuple[int, int]
) -> bytes:
    """What an image's textures are found by: sha256, as 64 hexadecimal digits.

    Args:
        image: the image itself; hashed pixel by pixel where there is no digest.
        digest: sha256 of the bytes it was decoded from, where they are known.
        fingerprint: of how textures are made.
        grid: rows and columns of cells.
    """
    if digest:
        content = f"file {digest}"
    else:
        # Palettes and transparency are no part of the bytes of other modes.
        plain = image if image.mode == "RGB" else image.convert("RGBA")
        content = f"pixels {image.mode} {hashlib.sha256(plain.tobytes()).hexdigest()}"
    text = f"{content} {image.width}x{image.height} {fingerprint} {grid[0]}x{grid[1]}"
    return hashlib.sha256(text.encode()).hexdigest().encode()


def pack(key: bytes, textures_CHW: Tensor) -> bytes:
    """Textures as bytes that tell when they are damaged, or lie under another key.

    Raises:
        ValueError: they are not three axes of fp16, or an axis is longer than 65535.
    """
    if textures_CHW.dtype != torch.float16 or textures_CHW.ndim != 3:
        raise ValueError(
            f"Textures are {textures_CHW.dtype} of shape {tuple(textures_CHW.shape)}; expected "
            "torch.float16 of (channels, rows, columns)."
        )
    if max(textures_CHW.shape) > np.iinfo(np.uint16).max:
        raise ValueError(f"Textures of shape {tuple(textures_CHW.shape)} have too long an axis.")
    body = HEADER.pack(MAGIC, *textures_CHW.shape) + textures_CHW.numpy().astype("<f2").tobytes()
    return body + hashlib.sha256(key + body).digest()


def unpack(key: bytes, packed: memoryview) -> Tensor | None:
    """Textures ``(C, H, W)`` fp16, with memory of their own; None where the bytes are damaged."""
    if len(packed) < HEADER.size + CHECKSUM_BYTES:
        return None
    magic, *shape = HEADER.unpack_from(packed)
    if magic != MAGIC or len(packed) != HEADER.size + 2 * math.prod(shape) + CHECKSUM_BYTES:
        return None
    body = packed[:-CHECKSUM_BYTES]
    digest = hashlib.sha256(key)
    digest.update(body)
    if digest.digest() != packed[-CHECKSUM_BYTES:]:
        return None
    values = np.frombuffer(body, "<f2", offset=HEADER.size)
    return torch.from_numpy(values.astype(np.float16)).view(*shape)
