"""What passes between the network and Gradio."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lightning_arrcoc.compare.page.guard import AT_ONCE, Guard

MOST = 1000
LOCAL = ("127.0.0.1", "localhost")
JOIN = "/gradio_api/queue/join"


class Behind:
    """Stands for Gradio: notes what reached it."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.bytes = 0
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.paths.append(scope["path"])
        more = scope["method"] == "POST"
        while more:
            message = await receive()
            self.bytes += len(message.get("body", b""))
            more = message.get("more_body", False)
        await self.go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"here"})


async def ask(
    guard: Guard, path: str, method: str = "GET", body: bytes = b"", chunks: int = 1, **headers: str
) -> tuple[int, dict[str, str]]:
    named = {"host": "127.0.0.1:7860"}
    if method == "POST":
        named["content-length"] = str(len(body))
    named |= {key.replace("_", "-"): value for key, value in headers.items()}
    sent: list[Any] = []
    parts = [body] * chunks

    async def receive() -> Any:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "path": path, "method": method,
        "headers": [(key.encode(), value.encode()) for key, value in named.items() if value],
    }  # fmt: skip
    await guard(scope, receive, send)
    found = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    return sent[0]["status"], found


def status(guard: Guard, *arguments: Any, **options: Any) -> int:
    return asyncio.run(ask(guard, *arguments, **options))[0]


@pytest.fixture
def behind() -> Behind:
    return Behind()


@pytest.fixture
def guard(behind: Behind) -> Guard:
    return Guard(behind, MOST, LOCAL)


@pytest.mark.parametrize(
    "path",
    ["/", "/config", "/theme.css", "/assets/index-B5_x.js", "/static/fonts/a/b.woff2",
     "/gradio_api/queue/data", "/gradio_api/heartbeat/abc123"],
)  # fmt: skip
def test_what_a_browser_needs_passes(path: str, guard: Guard, behind: Behind) -> None:
    assert status(guard, path) == 200
    assert behind.paths == [path]


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/file=/etc/passwd", "/gradio_api/file/etc/passwd", "/file=/etc/passwd",
     "/gradio_api/proxy=http://example.com/", "/assets/../../../etc/passwd", "/assets/..",
     "/static/%2e%2e/%2e%2e/etc/passwd", "/assets//etc/passwd", "/assets/..\\..\\boot.ini",
     "/static/\x00", "/gradio_api/stream/a/1/2/playlist-file", "/monitoring", "/docs",
     "/openapi.json", "/gradio_api/info", "/gradio_api/openapi.json", "/gradio_api/deep_link",
     "/gradio_api/custom_component/1/client/component/..", "/gradio_api/runs", "/login", "//",
     "/gradio_api/vibe-code/", "/gradio_api/upload_progress"],
)  # fmt: skip
def test_nothing_else_is_there(path: str, guard: Guard, behind: Behind) -> None:
    assert status(guard, path) == 404
    assert behind.paths == []


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/upload", "/gradio_api/run/predict", "/gradio_api/call/ask", "/login",
     "/gradio_api/component_server", "/gradio_api/stream/abc", "/", "/gradio_api/file=/etc/passwd",
     "/gradio_api/process_recording", "/gradio_api/run-history/connect"],
)  # fmt: skip
def test_nothing_is_uploaded_and_nothing_called_past_the_queue(
    path: str, guard: Guard, behind: Behind
) -> None:
    assert status(guard, path, "POST", b"x") == 404
    assert behind.paths == []


def test_other_methods_and_sockets_are_not_answered(guard: Guard, behind: Behind) -> None:
    assert status(guard, "/", "PUT") == 404
    assert status(guard, JOIN, "DELETE") == 404
    asyncio.run(guard({"type": "websocket", "path": "/"}, None, None))  # type: ignore[arg-type]
    assert behind.paths == []


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 200),
        ({"content_length": str(MOST + 1)}, 413),
        ({"content_length": ""}, 411),
        ({"content_length": "-1"}, 411),
        ({"content_length": "1e3"}, 411),
        ({"transfer_encoding": "chunked"}, 411),
        ({"host": "evil.example"}, 421),
        ({"host": ""}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:7860"}, 200),
        ({"origin": "http://127.0.0.1:1"}, 403),
    ],
)  # fmt: skip
def test_a_request_says_who_it_is_and_how_long(
    headers: dict[str, str], expected: int, guard: Guard, behind: Behind
) -> None:
    assert status(guard, JOIN, "POST", b"x" * 10, **headers) == expected
    assert len(behind.paths) == (expected == 200)


def test_more_than_was_announced_does_not_arrive(guard: Guard, behind: Behind) -> None:
    status(guard, JOIN, "POST", b"x" * 100, chunks=50)
    assert behind.bytes == 100


def test_so_many_bytes_are_in_memory_together_and_no_more(guard: Guard, behind: Behind) -> None:
    async def several() -> list[int]:
        behind.go_on.clear()
        body = b"x" * MOST
        tasks = [asyncio.create_task(ask(guard, JOIN, "POST", body)) for _ in range(AT_ONCE + 3)]
        await asyncio.sleep(0)
        behind.go_on.set()
        codes = [(await task)[0] for task in tasks]
        return [*codes, (await ask(guard, JOIN, "POST", body))[0]]  # there is room again

    assert asyncio.run(several()) == [200] * AT_ONCE + [503] * 3 + [200]


def test_a_page_loads_nothing_from_elsewhere_and_is_framed_by_nobody(guard: Guard) -> None:
    _, headers = asyncio.run(ask(guard, "/"))
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "connect-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "http" not in policy


def test_a_hosted_page_is_known_by_any_name(behind: Behind) -> None:
    guard = Guard(behind, MOST, None, "'self' https://huggingface.co")
    assert status(guard, JOIN, "POST", b"x", host="a.hf.space", origin="https://b.hf.space") == 200
