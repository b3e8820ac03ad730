"""Secrets taken out of what is written down."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
SHORTEST = 8  # characters; a shorter value of the environment would be found in innocent words
NAMED = re.compile(
    r"(^|[_\-.])(api[_-]?key|key|token|password|passwd|secret|credentials?|authorization)$",
    re.IGNORECASE,
)
# As their makers document them: Hugging Face, OpenAI and others, GitHub, AWS, Slack.
SHAPED = re.compile(
    r"\b(hf_\w{20,}|sk-[\w-]{20,}|gh[pousr]_\w{20,}|AKIA[0-9A-Z]{16}|xox[abprs]-[\w-]{10,})"
    r"|(?<=Bearer )\S{8,}"
)
IN_URL = re.compile(r"(?<=://)[^/\s@]+(?=@)")


class Redactor:
    """Hides what is secret: values whose name says so, and text that is known or looks like one.

    Args:
        environment: whose secretly named values are hidden wherever they appear.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        known = {
            value
            for name, value in environment.items()
            if NAMED.search(name) and len(value) >= SHORTEST
        }
        self._known = sorted(known, key=len, reverse=True)

    def __call__(self, value: Any, name: str = "") -> Any:
        """The same value, nested as deeply as it is, without secrets."""
        if isinstance(value, Mapping):
            return {key: self(inner, str(key)) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self(inner, name) for inner in value]
        if isinstance(value, str):
            return HIDDEN if value and NAMED.search(name) else self.text(value)
        return value

    def text(self, text: str) -> str:
        """The text without what is known to be secret, or has the shape of it."""
        for secret in self._known:
            text = text.replace(secret, HIDDEN)
        return IN_URL.sub(HIDDEN, SHAPED.sub(HIDDEN, text))
