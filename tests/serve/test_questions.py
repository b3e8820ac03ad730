from __future__ import annotations

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_arrcoc.serve.errors import RequestError
from lightning_arrcoc.serve.questions import HINTS, MOST_VALUES, ONLY, read_question

ASKED = [{"role": "user", "content": "Hello"}]


def read(**fields: Any) -> Any:
    return read_question(orjson.dumps({"messages": ASKED, **fields}))


def test_a_request_is_read_with_what_openai_has_no_words_for() -> None:
    asked = read(arr_coc={"budget": 0.25, "explain": True}, stop="x", seed=3)
    assert (asked.arr_coc.budget, asked.arr_coc.explain) == (0.25, True)
    assert (asked.stops, asked.seed, asked.messages[0].parts[0].text) == (("x",), 3, "Hello")


def test_a_whole_number_is_tokens_and_a_fraction_is_a_share() -> None:
    assert type(read(arr_coc={"budget": 1}).arr_coc.budget) is int
    assert type(read(arr_coc={"budget": 1.0}).arr_coc.budget) is float


def test_fields_that_change_nothing_are_let_pass() -> None:
    assert read(**dict.fromkeys(HINTS, "x")).messages
    assert read(**{name: allowed[-1] for name, allowed in ONLY.items()}).messages


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"n": 2}, "n", "unsupported_parameter"),
        ({"n": True}, "n", "unsupported_parameter"),
        ({"logprobs": True}, "logprobs", "unsupported_parameter"),
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
        ({"budget": 0.1}, "budget", "unknown_parameter"),
        ({"arr_coc": {"bugdet": 0.1}}, "arr_coc.bugdet", "unknown_parameter"),
        ({"arr_coc": {"budget": True}}, "arr_coc.budget", "invalid_value"),
        ({"arr_coc": {"budget": "0.1"}}, "arr_coc.budget", "invalid_value"),
        ({"arr_coc": {"budget": 0}}, "arr_coc.budget", "invalid_value"),
        ({"arr_coc": {"budget": -5}}, "arr_coc.budget", "invalid_value"),
        ({"arr_coc": {"budget": 1.01}}, "arr_coc.budget", "invalid_value"),
        ({"arr_coc": None}, "arr_coc", "invalid_value"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 1.5}, "max_tokens", "invalid_value"),
        ({"seed": 2**63}, "seed", "invalid_value"),
        ({"stop": [""]}, "stop", "invalid_value"),
        ({"stop": ["a"] * 5}, "stop", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "invalid_value"),
    ],
)
def test_what_cannot_be_done_is_named(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(RequestError) as refused:
        read(**fields)
    told = refused.value.body()["error"]
    assert (refused.value.status, told["type"]) == (400, "invalid_request_error")
    assert (told["code"], told["param"]) == (code, param)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"3", b'{"messages": NaN}', b"\xff\xfe", b"[" * 100_000]
)
def test_what_is_no_object_in_json_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError, match="The body is"):
        read_question(body)


def test_a_body_full_of_mistakes_is_not_looked_through() -> None:
    many = {f"x{number}": 0 for number in range(MOST_VALUES)}
    for fields in (many, {"arr_coc": many}, {"messages": [{"role": "user", "content": [many]}]}):
        with pytest.raises(RequestError, match=f"more than {MOST_VALUES} values"):
            read_question(orjson.dumps({"messages": ASKED, "seed": 1, **fields}))
    with pytest.raises(RequestError, match="x0: Extra inputs"):
        read_question(orjson.dumps({"messages": ASKED, "x0": 0, "metadata": many}))


words = st.sampled_from(["", "user", "role", "content", "text", "type", "\x00", "budget", "\u00e9"])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False)
    | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
names = st.sampled_from(
    ["messages", "model", "arr_coc", "stop", "stream", "max_tokens", "seed", "n", "stream_options"]
)


@settings(deadline=None)  # a busy machine is no failure
@given(st.dictionaries(names, values, max_size=4))
def test_whatever_is_said_it_is_read_or_refused(fields: dict[str, Any]) -> None:
    with suppress(RequestError):
        read_question(orjson.dumps({"messages": ASKED, **fields}))
