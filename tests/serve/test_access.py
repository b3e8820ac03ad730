from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("starlette")

from lightning_arrcoc.serve.access import LOOPBACK, Access


def status(access: Access, path: str = "/v1/models", **headers: str) -> int:
    """What a request with these headers gets; 200 is what lies behind."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope = {"type": "http", "path": path, "headers": pairs, "method": "GET"}
    asyncio.run(access(scope, receive, send))
    return int(sent[0]["status"])


async def behind(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("Bearer right", 200), ("bearer right ", 200), ("Bearer wrong", 401), ("right", 401),
        ("", 401), ("Basic right", 401), ("Bearer ", 401), ("Bearer r\xefght", 401),
    ],
)  # fmt: skip
def test_the_right_key_alone_is_let_in(sent: str, expected: int) -> None:
    assert status(Access(behind, key="right"), authorization=sent) == expected


def test_health_needs_no_key_and_metrics_do() -> None:
    access = Access(behind, key="right")
    assert (status(access, "/health"), status(access, "/metrics")) == (200, 401)


def test_a_key_may_have_foreign_letters() -> None:
    sent = "Bearer schlüssel".encode().decode("latin-1")
    assert status(Access(behind, key="schlüssel"), authorization=sent) == 200


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1:8000", 200), ("localhost", 200), ("[::1]:8000", 200), ("[::1]", 200),
     ("evil.example.com", 403), ("localhost.evil.com:8000", 403), ("", 403)],
)  # fmt: skip
def test_a_server_of_this_machine_answers_to_its_own_names(host: str, expected: int) -> None:
    assert status(Access(behind, hosts=LOOPBACK), host=host) == expected
    assert status(Access(behind), host=host) == 200
