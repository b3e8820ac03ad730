"""Answers in OpenAI's form, whole or in chunks, with what was kept beside them."""

from __future__ import annotations

import time
import uuid
from typing import Any, NamedTuple

import orjson

from lightning_arrcoc.serve.errors import RequestError
from lightning_arrcoc.serve.wire import Job, Told

DONE = b"data: [DONE]\n\n"


class Usage(NamedTuple):
    """Tokens of one answer.

    Attributes:
        text: of the prompt, read.
        visual: read, of those that the images have.
        saved: left out.
        answer: written.
    """

    text: int
    visual: int
    saved: int
    answer: int

    @classmethod
    def of(cls, job: Job, last: Told) -> Usage:
        """Of an answer with its last piece."""
        row = job.prompt.row
        text = len(row.input_ids) - row.cells
        return cls(text, last.visual, row.cells - last.visual, last.tokens)

    def as_openai(self) -> dict[str, Any]:
        """Prompt tokens are those that were read; beside them how many of which kind."""
        read = self.text + self.visual
        return {
            "prompt_tokens": read,
            "completion_tokens": self.answer,
            "total_tokens": read + self.answer,
            "arr_coc": {
                "text_tokens": self.text,
                "visual_tokens": self.visual,
                "visual_tokens_saved": self.saved,
            },
        }


class Reply:
    """One answer on its way out.

    Args:
        model: what clients call it.
        job: what is answered.
        include_usage: of a stream, in a last chunk of its own.
    """

    def __init__(self, model: str, job: Job, *, include_usage: bool = False) -> None:
        self._head: dict[str, Any] = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }
        self._job, self._include_usage = job, include_usage

    def whole(self, last: Told) -> dict[str, Any]:
        """A completion, of an answer that was told at once."""
        message = {"role": "assistant", "content": last.text, "refusal": None}
        choice = {
            "index": 0, "message": message, "logprobs": None, "finish_reason": last.reason,
        }  # fmt: skip
        usage = Usage.of(self._job, last).as_openai()
        body = {**self._head, "object": "chat.completion", "choices": [choice], "usage": usage}
        return body | self._why(last)

    def opening(self) -> bytes:
        """The first chunk of a stream: who speaks."""
        return self._chunk({"role": "assistant", "content": ""}, None)

    def chunks(self, piece: Told) -> bytes:
        """What a piece adds to a stream; the last one brings the end of it."""
        events = self._chunk({"content": piece.text}, None) if piece.text else b""
        if piece.reason is None:
            return events
        events += self._chunk({}, piece.reason, **self._why(piece))
        if self._include_usage:
            usage = Usage.of(self._job, piece).as_openai()
            events += _event({**self._head_of_chunk(), "choices": [], "usage": usage})
        return events + DONE

    def broken_off(self, error: RequestError) -> bytes:
        """The end of a stream that cannot go on: its status is told already."""
        return _event(error.body())

    def _why(self, last: Told) -> dict[str, Any]:
        if last.images is None:
            return {}
        return {"arr_coc": {"budget": self._job.prompt.budget, "images": last.images}}

    def _head_of_chunk(self) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk"}

    def _chunk(self, delta: dict[str, str], reason: str | None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        usage = {"usage": None} if self._include_usage else {}
        return _event({**self._head_of_chunk(), "choices": [choice], **usage, **more})


def _event(body: dict[str, Any]) -> bytes:
    """One event of a stream."""
    return b"data: " + orjson.dumps(body) + b"\n\n"
