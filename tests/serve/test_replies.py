from __future__ import annotations

import orjson
import pytest

from lightning_arrcoc.serve.errors import RequestError
from lightning_arrcoc.serve.replies import DONE, Reply, Usage
from lightning_arrcoc.serve.wire import Job, Told
from lightning_arrcoc.vlm.answering import Prompt
from lightning_arrcoc.vlm.messages import Row

JOB = Job(Prompt(Row([1] * 30, [0] * 30, 20), (), 0.25))
LAST = Told("7", "stop", tokens=1, visual=5)


def events(sent: bytes) -> list[dict[str, object]]:
    return [
        orjson.loads(line[6:]) for line in sent.split(b"\n\n") if line and line + b"\n\n" != DONE
    ]


def test_usage_tells_what_was_read_and_what_was_saved() -> None:
    usage = Usage.of(JOB, LAST)
    assert usage == (10, 5, 15, 1)
    told = usage.as_openai()
    assert (told["prompt_tokens"], told["completion_tokens"], told["total_tokens"]) == (15, 1, 16)
    assert told["arr_coc"] == {"text_tokens": 10, "visual_tokens": 5, "visual_tokens_saved": 15}


def test_a_completion_has_openais_form() -> None:
    body = Reply("m", JOB).whole(LAST)
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["content"] == "7"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert "arr_coc" not in body
    assert Reply("m", JOB).whole(LAST._replace(images=[{}]))["arr_coc"]["images"] == [{}]


def test_a_stream_says_who_speaks_what_and_that_it_is_over() -> None:
    reply = Reply("m", JOB, include_usage=True)
    sent = reply.opening() + reply.chunks(Told("7", None)) + reply.chunks(LAST._replace(text=""))
    assert sent.endswith(DONE)
    found = events(sent)
    assert [chunk["object"] for chunk in found] == ["chat.completion.chunk"] * 4
    assert len({chunk["id"] for chunk in found}) == 1
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}  # type: ignore[index]
    assert found[2]["choices"][0]["finish_reason"] == "stop"  # type: ignore[index]
    assert (found[0]["usage"], found[3]["choices"]) == (None, [])
    assert found[3]["usage"]["completion_tokens"] == 1  # type: ignore[index]


def test_usage_in_a_stream_is_told_to_whom_asks() -> None:
    assert all("usage" not in chunk for chunk in events(Reply("m", JOB).chunks(LAST)))


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (429, "rate_limit_error"), (504, "server_error")],
)
def test_an_error_has_openais_form(status: int, kind: str) -> None:
    error = RequestError(status, "Found, expected.", param="x", code="y")
    assert error.body() == {
        "error": {"message": "Found, expected.", "type": kind, "param": "x", "code": "y"}
    }
    assert Reply("m", JOB).broken_off(error).startswith(b'data: {"error":')
