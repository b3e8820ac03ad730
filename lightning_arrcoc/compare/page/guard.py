"""What stands between the network and Gradio: a list of what may be asked for, and how much."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

# All that a browser needs of Gradio. Neither what hands out or takes in files (file=, upload,
# stream, proxy=) nor what calls functions past the queue (run, call, component_server) is there.
READ = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|robots\.txt|manifest\.json)|"
    r"/(assets|static)/[\w@.-]+(/[\w@.-]+)*|/svelte/[\w@.-]+(/[\w@.-]+)*|"
    r"/gradio_api/(startup-events|theme\.css|app_id|queue/data|heartbeat/\w{1,64})"
)
WRITTEN = re.compile(r"/gradio_api/(queue/join|cancel|reset)/?")
# Gradio's own start needs inline scripts, and `new Function` for the picture's.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self'; object-src 'none'; base-uri 'self'; form-action 'none'; "
    "frame-ancestors {ancestors}"
)
AT_ONCE = 6  # largest requests that may be in memory together; chosen by us


class Guard:
    """Lets through what is listed, no larger than allowed, and nothing that leads outside.

    Bodies are counted before they are read: a request that does not say how long it is, one that
    is too long, or one too many at the same time is turned away.

    Args:
        app: behind it.
        most_bytes: of one request.
        hosts: names that it may be called by, so that no other site's name can be made to lead
            here; None: any.
        ancestors: who may frame it, as for the policy of that name.
    """

    def __init__(
        self, app: App, most_bytes: int, hosts: Collection[str] | None, ancestors: str = "'none'"
    ) -> None:
        self.app, self.most_bytes, self.hosts = app, most_bytes, hosts
        self.policy = POLICY.format(ancestors=ancestors)
        self._in_memory = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":  # anything else, such as a websocket, is not answered
            await self._answer(scope, receive, send)

    async def _answer(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _refuse(send, *refusal)
            return
        length = int(headers.get("content-length", 0))
        self._in_memory += length
        try:
            await self.app(scope, _counted(receive, length), self._marked(send))
        finally:
            self._in_memory -= length

    def _refusal(
        self, scope: MutableMapping[str, Any], headers: dict[str, str]
    ) -> tuple[int, str] | None:
        """Status and words, or None for what may pass."""
        path, method = scope["path"], scope["method"]
        if self.hosts is not None and _name(headers.get("host", "")) not in self.hosts:
            return 421, "This page is not known by that name."
        is_read = method in ("GET", "HEAD") and READ.fullmatch(path) and ".." not in path
        if not is_read and not (method == "POST" and WRITTEN.fullmatch(path)):
            return 404, "There is nothing here."
        if is_read:
            return None
        origin = headers.get("origin")
        is_local = self.hosts is not None
        if is_local and origin is not None and origin.partition("://")[2] != headers.get("host"):
            return 403, "Another site's page may not ask here."
        length = headers.get("content-length", "")
        if not length.isdecimal() or "transfer-encoding" in headers:
            return 411, "A request has to say how long it is."
        if int(length) > self.most_bytes:
            return 413, f"At most {self.most_bytes} bytes go."
        if self._in_memory + int(length) > AT_ONCE * self.most_bytes:
            return 503, "Too many at once. Try again in a moment."
        return None

    def _marked(self, send: Send) -> Send:
        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_safe_headers(self.policy)]
            await send(message)

        return marked


def _counted(receive: Receive, length: int) -> Receive:
    """No more than was announced; a server that counts itself never sends more."""
    left = length

    async def counted() -> Message:
        nonlocal left
        message = await receive()
        body = message.get("body", b"")
        left -= len(body)
        return message if left >= 0 else {"type": "http.disconnect"}

    return counted


def _name(host: str) -> str:
    """Without its port."""
    return re.sub(r":\d+$", "", host.lower())


def _safe_headers(policy: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-security-policy", policy.encode()),
        (b"referrer-policy", b"no-referrer"),
        (b"x-content-type-options", b"nosniff"),
    ]


async def _refuse(send: Send, status: int, words: str) -> None:
    body = words.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
