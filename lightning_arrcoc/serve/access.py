"""Who may ask: a key, and a name that is ours."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from lightning_arrcoc.serve.errors import RequestError

OPEN = ("/health",)  # whoever starts and stops servers has no key
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class Access:
    """Middleware that lets nobody in without the key.

    Args:
        app: what lies behind.
        key: that clients send as ``Authorization: Bearer KEY``; None asks for none.
        hosts: names by which a client may call this server, without ports; empty allows all. A
            server of this machine alone names them, so that no page in a browser can reach it by a
            name of its own.
    """

    def __init__(self, app: Any, key: str | None = None, hosts: Sequence[str] = ()) -> None:
        self._app, self._hosts = app, tuple(hosts)
        self._key = None if key is None else key.encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            error = self._refusal(Headers(scope=scope), scope["path"])
            if error is not None:
                await JSONResponse(error.body(), error.status)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, headers: Headers, path: str) -> RequestError | None:
        host = headers.get("host", "").lower()
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if self._hosts and name not in self._hosts:
            return RequestError(403, "This server is not called so.", code="unknown_host")
        if self._key is None or path in OPEN:
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        sent = given.strip().encode("latin-1")  # as headers are; the key is compared byte by byte
        right = hmac.compare_digest(sent, self._key) or hmac.compare_digest(
            sent.decode("latin-1").encode(), self._key
        )
        if kind.lower() == "bearer" and right:
            return None
        return RequestError(401, "The API key is missing or wrong.", code="invalid_api_key")
