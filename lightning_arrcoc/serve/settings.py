"""What a server may be asked, and how much of it at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

KEY_VARIABLE = "LIGHTNING_ARRCOC_API_KEY"
MIB = 2**20


@dataclass(frozen=True)
class ServerSettings:
    """Limits of a server, and where it listens.

    Args:
        host: of this machine alone, of all its networks, or of all that speak IPv6; LitServe takes
            no others.
        port: 1024 to 65535.
        name: of the model, as requests give it.
        api_key_file: a file that holds the key that clients must send. None: the environment
            variable LIGHTNING_ARRCOC_API_KEY, or no key where that is not set either.
        max_batch: answers that are generated together.
        batch_wait_s: how long the first of a batch waits for others.
        max_queue: requests inside at once, waiting ones included; further ones get 429.
        max_body_mib, max_image_mib: of a request, and of each image as it was encoded.
        max_image_pixels: of each image, before it is fitted to the model.
        max_images: in one request.
        max_tokens: that an answer may have.
        default_tokens: that it has where the request does not say.
        max_prompt_tokens: text and visual tokens before any are left out.
        timeout_s: from a request's first byte to the last of its answer.
        remote_hosts: whose images may be fetched by https. None by default.
        device: where the model computes; "auto" takes a GPU where there is one.

    Raises:
        ValueError: a limit is not positive, or the port cannot be one.
    """

    host: Literal["127.0.0.1", "0.0.0.0", "::"] = "127.0.0.1"
    port: int = 8000
    name: str = "arr-coc"
    api_key_file: str | None = None
    max_batch: int = 8
    batch_wait_s: float = 0.01  # chosen by us: short against any answer
    max_queue: int = 64
    max_body_mib: float = 20.0
    max_image_mib: float = 10.0
    max_image_pixels: int = 16_000_000  # chosen by us: a 4000 x 4000 photograph, 48 MB decoded
    max_images: int = 8
    max_tokens: int = 1024
    default_tokens: int = 256
    max_prompt_tokens: int = 8192
    timeout_s: float = 120.0
    remote_hosts: Sequence[str] = ()
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        if self.host not in ("127.0.0.1", "0.0.0.0", "::"):
            raise ValueError(f"host={self.host!r}; expected 127.0.0.1, 0.0.0.0 or '::'.")
        if not 1024 <= self.port <= 65535:
            raise ValueError(f"port={self.port}; expected 1024 to 65535.")
        if not self.name.strip():
            raise ValueError("name is empty; expected what clients call the model.")
        if not 0 <= self.batch_wait_s <= self.timeout_s:
            raise ValueError(f"batch_wait_s={self.batch_wait_s}; expected 0 to timeout_s.")
        for limit in (
            "max_batch", "max_queue", "max_body_mib", "max_image_mib", "max_image_pixels",
            "max_images", "max_tokens", "default_tokens", "max_prompt_tokens", "timeout_s",
        ):  # fmt: skip
            value = getattr(self, limit)
            if not 0 < value < float("inf"):
                raise ValueError(f"{limit}={value}; expected a finite number above 0.")


def read_api_key(settings: ServerSettings) -> str | None:
    """The key that clients must send, if any.

    Raises:
        ValueError: the file or the variable is there and empty.
        OSError: the file cannot be read.
    """
    if settings.api_key_file is not None:
        key, where = Path(settings.api_key_file).read_text(encoding="utf-8"), settings.api_key_file
    elif KEY_VARIABLE in os.environ:
        key, where = os.environ[KEY_VARIABLE], KEY_VARIABLE
    else:
        return None
    if not key.strip():
        raise ValueError(f"{where} is empty; expected the key that clients send, in one line.")
    return key.strip()
