"""An image's URL -> the image: from a data URL, or fetched where that is allowed."""

from __future__ import annotations

import binascii
import http.client
import math
import re
import ssl
import time
from base64 import b64decode
from urllib.parse import urlsplit

from PIL import Image

from lightning_arrcoc.data.images import decode_image
from lightning_arrcoc.serve.errors import RequestError
from lightning_arrcoc.serve.settings import MIB, ServerSettings

DATA_URL = re.compile(r"data:image/(?:png|jpeg|jpg|webp);base64,", re.IGNORECASE)
FETCH_S = 10.0  # chosen by us, for a fetch and for each wait in it
PIECE = 2**16  # bytes


def open_picture(
    url: str, name: str, settings: ServerSettings, deadline: float = math.inf
) -> Image.Image:
    """Decode an image as the data sets do.

    Args:
        url: a data URL, or one of https whose host is allowed.
        name: what errors call it.
        settings: with the limits.
        deadline: by `time.monotonic`, of a fetch.

    Raises:
        RequestError: another kind of URL, or an image that is too large, damaged or of another
            format.
    """
    most = int(settings.max_image_mib * MIB)
    head = DATA_URL.match(url)
    if head is None:
        content = _fetched(url, name, settings, most, deadline)
    else:
        if (len(url) - head.end()) * 3 // 4 > most + 2:  # of the padding
            raise _too_large(name, settings)
        try:
            content = b64decode(url[head.end() :], validate=True)
        except (binascii.Error, ValueError) as error:
            raise _bad(name, f"is no base64: {error}.") from error
    try:
        return decode_image(content, name, most_pixels=settings.max_image_pixels)
    except ValueError as error:
        raise RequestError(400, str(error), param="messages", code="invalid_image") from error


def _fetched(url: str, name: str, settings: ServerSettings, most: int, deadline: float) -> bytes:
    """An image from a host that was allowed. Redirects are not followed: they lead elsewhere."""
    try:
        parts = urlsplit(url)
        kind, host, port = parts.scheme.lower(), parts.hostname or "", parts.port
    except ValueError as error:
        raise _bad(name, "has no URL that can be read.") from error
    if kind != "https" or host not in settings.remote_hosts or port not in (None, 443):
        raise _bad(
            name,
            f"is no data URL ({kind or 'nothing'}:); expected "
            "data:image/png;base64,... (or jpeg, webp). Remote images are refused"
            + (", but for https of the hosts that this server names." if kind == "https" else "."),
        )
    if any(ord(letter) <= 32 or ord(letter) > 126 for letter in url):
        raise _bad(name, "has a URL with spaces or foreign letters; encode them.")
    until = min(deadline, time.monotonic() + FETCH_S)
    line = http.client.HTTPSConnection(host, timeout=FETCH_S, context=ssl.create_default_context())
    try:
        line.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
        answer = line.getresponse()
        if answer.status != 200:
            raise _bad(name, f"could not be fetched: {host} answered {answer.status}.")
        content = bytearray()
        while len(content) <= most and (piece := answer.read1(min(PIECE, most + 1 - len(content)))):
            content += piece
            if time.monotonic() > until:  # a host that sends byte by byte never lets a wait end
                raise TimeoutError
    except (OSError, http.client.HTTPException) as error:
        raise _bad(name, f"could not be fetched from {host}: {type(error).__name__}.") from error
    finally:
        line.close()
    if len(content) > most:
        raise _too_large(name, settings)
    return bytes(content)


def _bad(name: str, what: str) -> RequestError:
    return RequestError(400, f"{name!r} {what}", param="messages", code="invalid_image")


def _too_large(name: str, settings: ServerSettings) -> RequestError:
    return RequestError(
        413,
        f"{name!r} has more than {settings.max_image_mib:g} MiB; make it smaller.",
        param="messages",
        code="image_too_large",
    )
