"""What goes wrong with a request, in OpenAI's form."""

from __future__ import annotations

from typing import Any

BY_STATUS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}


class RequestError(Exception):
    """A request that gets no answer.

    Args:
        status: of HTTP.
        message: found, expected, next step.
        param: the field that is wrong, where it is one.
        code: a word that programs can tell it by.
        retry_after_s: when to come again, in whole seconds.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}

    def body(self) -> dict[str, Any]:
        """As OpenAI's clients read it."""
        kind = BY_STATUS.get(self.status, "server_error")
        told = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": told}
