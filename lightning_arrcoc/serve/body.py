"""What was sent, as far as it may go."""

from __future__ import annotations

from starlette.requests import Request

from lightning_arrcoc.serve.errors import RequestError
from lightning_arrcoc.serve.settings import MIB


async def read_body(request: Request, most_mib: float) -> bytes:
    """The body of a request.

    Pages in a browser can send other types of content to this machine without being asked about
    it, so that JSON has to call itself so.

    Args:
        request: whose body nobody has read.
        most_mib: it is left unread from there on, whatever length it was said to have.

    Raises:
        RequestError: it is too large, or no JSON by its type.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise RequestError(400, "Content-Type must be application/json.")
    most = int(most_mib * MIB)
    told = request.headers.get("content-length", "0")
    body = bytearray()
    if not told.isdecimal() or int(told) <= most:
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                break
        else:
            return bytes(body)
    raise RequestError(
        413,
        f"The body has more than {most_mib:g} MiB; send fewer or smaller images.",
        code="body_too_large",
    )
