from __future__ import annotations

import base64
import http.client
import time
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from lightning_arrcoc.serve import pictures
from lightning_arrcoc.serve.errors import RequestError
from lightning_arrcoc.serve.pictures import open_picture
from lightning_arrcoc.serve.settings import ServerSettings

from .conftest import encoded

SETTINGS = ServerSettings(max_image_mib=0.01, max_image_pixels=10_000)


def refused(url: str, settings: ServerSettings = SETTINGS) -> RequestError:
    with pytest.raises(RequestError) as found:
        open_picture(url, "image 1", settings)
    assert "'image 1'" in found.value.message
    return found.value


def png(width: int, height: int) -> bytes:
    """A small file that says it is a large picture."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(name + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + name + content + check

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    rows = zlib.compress(bytes((width + 7) // 8 + 1) * min(height, 100))
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", size + b"\x01\x00\x00\x00\x00"),
         chunk(b"IDAT", rows), chunk(b"IEND", b"")]
    )  # fmt: skip


def as_url(content: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_a_data_url_is_opened(kind: str) -> None:
    url = encoded(Image.new("RGB", (8, 6), (255, 0, 0)), kind)
    assert open_picture(url, "image 1", SETTINGS).size == (8, 6)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/x.png", "https://example.com/x.png", "file:///etc/passwd",
        "FILE:/etc/passwd", "/etc/passwd", "../x.png", "ftp://example.com/x", "", "data:,x",
        "data:image/svg+xml;base64,AAAA", "data:image/png,AAAA", "https://[::1", "gopher:",
        "data:text/html;base64,AAAA", "\\\\host\\share\\x.png",
    ],
)  # fmt: skip
def test_files_and_remote_images_are_refused_whatever_they_are_called(url: str) -> None:
    assert refused(url).status == 400


@pytest.mark.parametrize(
    ("url", "status", "said"),
    [
        ("data:image/png;base64,####", 400, "base64"),
        ("data:image/png;base64,", 400, "empty"),
        (as_url(b"no picture"), 400, "cannot be read"),
        (as_url(png(64, 64)[:40]), 400, "cannot be read"),
        (as_url(png(101, 100)), 400, "101x100 pixels"),
        (as_url(png(60_000, 60_000)), 400, "too large"),
        (as_url(png(5000, 1)), 400, "times the other"),
        (as_url(bytes(20_000)), 413, "0.01 MiB"),
        (as_url(b"GIF89a"), 400, "cannot be read"),
    ],
)
def test_what_is_too_large_or_damaged_is_refused(url: str, status: int, said: str) -> None:
    error = refused(url)
    assert (error.status, said in error.message) == (status, True)


def test_jpeg_is_refused_while_pillow_cannot_be_trusted_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = encoded(Image.new("RGB", (8, 8)), "jpeg")
    monkeypatch.setattr("lightning_arrcoc.data.images.allowed_formats", lambda: ("PNG", "WEBP"))
    assert "JPEG is refused" in refused(url).message


class Line:
    """A connection that answers once."""

    def __init__(self, status: int, content: bytes) -> None:
        self.status, self._content = status, content
        self.asked: list[str] = []

    def request(self, method: str, path: str) -> None:
        self.asked.append(f"{method} {path}")

    def getresponse(self) -> Any:
        return self

    def read1(self, most: int) -> bytes:
        piece, self._content = self._content[:most], self._content[most:]
        return piece

    def close(self) -> None:
        self.asked.append("closed")


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, bytes], Line]:
    def with_this(status: int, content: bytes) -> Line:
        line = Line(status, content)
        monkeypatch.setattr(http.client, "HTTPSConnection", lambda *_, **__: line)
        return line

    return with_this


NAMED = ServerSettings(max_image_mib=0.01, remote_hosts=["pictures.example.com"])


def test_a_host_that_was_allowed_is_asked(answers: Callable[[int, bytes], Line]) -> None:
    line = answers(200, png(8, 8))
    url = "https://pictures.example.com/a.png?b=c"
    assert open_picture(url, "image 1", NAMED).size == (8, 8)
    assert line.asked == ["GET /a.png?b=c", "closed"]


@pytest.mark.parametrize(
    "url",
    ["http://pictures.example.com/a.png", "https://pictures.example.com:444/a.png",
     "https://pictures.example.com.evil.com/", "https://pictures.example.com@evil.com/a",
     "https://evil.com/?pictures.example.com", "https://pictures.example.com/a b",
     "https://pictures.example.com:x/"],
)  # fmt: skip
def test_no_other_host_kind_or_port_is_asked(
    url: str, answers: Callable[[int, bytes], Line]
) -> None:
    line = answers(200, png(8, 8))
    refused(url, NAMED)
    assert line.asked == []


def test_redirects_and_what_is_too_large_end_a_fetch(answers: Callable[..., Line]) -> None:
    answers(302, b"")
    assert "answered 302" in refused("https://pictures.example.com/", NAMED).message
    answers(200, bytes(20_000))
    assert refused("https://pictures.example.com/", NAMED).status == 413


def test_a_host_that_sends_byte_by_byte_holds_nobody_up(
    answers: Callable[..., Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "PIECE", 1)
    line = answers(200, png(8, 8))
    with pytest.raises(RequestError, match="TimeoutError"):
        open_picture("https://pictures.example.com/", "image 1", NAMED, time.monotonic() - 1)
    assert line.asked[-1] == "closed"
    monkeypatch.setattr(pictures, "FETCH_S", 0.0)
    assert "TimeoutError" in refused("https://pictures.example.com/", NAMED).message
