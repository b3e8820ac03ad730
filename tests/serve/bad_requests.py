"""Two hundred requests that are no good, made by hand."""

from __future__ import annotations

import base64
import copy
from collections.abc import Iterator
from typing import Any

import orjson

WRONG = (None, True, 3, -1, 1e308, "x", [], {}, [None], {"a": 1}, 2**64 - 1, "\x00")
RAW = (
    b"", b"null", b"[]", b'"x"', b"0", b"{", b"}", b"{}", b"\xff\xfe\x00", b"[" * 5000,
    b'{"a":' * 5000, b"NaN", b'{"messages": NaN}', b"{'messages': []}", b"\x00" * 100,
    b'{"messages": [' + b"{}," * 500 + b"{}]}",
)  # fmt: skip
BUDGETS = (
    b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-1", b"0", b"0.0", b"1.5", b'"all"', b"true",
    b"[]", b"{}", b"1" * 30, b"1" * 5000, b"-0.1", b"null1", b"0x10",
)  # fmt: skip
URLS = (
    "", "x", "http://127.0.0.1:1/a.png", "https://example.com/a.png", "file:///etc/passwd",
    "file://localhost/etc/passwd", "/etc/passwd", "../../etc/passwd", "ftp://example.com/a",
    "gopher://x", "https://[::1", "https://x:99999/", "javascript:alert(1)", "data:",
    "data:image/png,AAAA", "data:image/gif;base64,R0lGODlh", "data:image/svg+xml;base64,PHN2Zz4=",
    "data:image/png;base64,", "data:image/png;base64,!!!!", "data:image/png;base64,AAAA",
    "data:text/plain;base64,AAAA", "data:image/tiff;base64,SUkqAA==", "\\\\host\\x.png",
)  # fmt: skip
MESSAGES: tuple[Any, ...] = (
    [], {}, "x", [[]], [{}], [{"role": "user"}], [{"content": "x"}],
    [{"role": "tool", "content": "x"}], [{"role": "function", "content": "x"}],
    [{"role": "User", "content": "x"}], [{"role": "user", "content": 3}],
    [{"role": "user", "content": []}], [{"role": "user", "content": [{}]}],
    [{"role": "user", "content": [{"type": "text"}]}],
    [{"role": "user", "content": [{"type": "video", "video": "x"}]}],
    [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}],
    [{"role": "assistant", "content": "x"}], [{"role": "system", "content": "x"}],
    [{"role": "user", "content": "<|im_end|>"}], [{"role": "user", "content": "<|image_pad|>"}],
    [{"role": "user", "content": "x" * 300_000}], [{"role": "user", "content": "x"}] * 300,
    [{"role": "user", "content": "1 " * 9000}], [{"role": "user", "content": "x", "audio": 1}],
)  # fmt: skip


def bad_requests(good: dict[str, Any]) -> Iterator[bytes]:
    """Bodies that must be refused.

    Args:
        good: a request about a PNG, whose first part is the image.
    """
    whole = orjson.dumps(good)
    yield from RAW
    yield from (whole[: len(whole) * n // 30] for n in range(1, 30))
    yield from (orjson.dumps({**good, "messages": messages}) for messages in MESSAGES)
    for field, fine in (
        ("max_tokens", (None, 3)), ("temperature", (None,)), ("top_p", (None,)),
        ("seed", (None, 3, -1)), ("stop", (None, "x", [], "\x00")), ("stream", (None, True)),
        ("n", (None,)), ("stream_options", (None, {})), ("arr_coc", ({},)), ("model", (None,)),
        ("tools", (None, [])), ("logprobs", (None,)), ("logit_bias", (None, {})),
    ):  # fmt: skip
        yield from (
            orjson.dumps({**good, field: value}) for value in WRONG
            if not any(value is f or (value == f and type(value) is type(f)) for f in fine)
        )  # fmt: skip
    for budget in BUDGETS:
        yield whole[:-1] + b',"arr_coc":{"budget":' + budget + b"}}"
    url = good["messages"][0]["content"][0]["image_url"]["url"]
    picture = base64.b64decode(url.partition(",")[2])
    damaged = [picture[: len(picture) * n // 20] for n in range(1, 19)]
    damaged += [picture[:20] + bytes([n]) * 4 + picture[24:] for n in (0, 127, 255)]  # its height
    urls = [f"data:image/png;base64,{base64.b64encode(part).decode()}" for part in damaged]
    for one in (*URLS, *urls):
        other = copy.deepcopy(good)
        other["messages"][0]["content"][0]["image_url"]["url"] = one
        yield orjson.dumps(other)
