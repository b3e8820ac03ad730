from __future__ import annotations

from typing import Any

import orjson
import pytest

from lightning_arrcoc.serve.door import Door
from lightning_arrcoc.serve.errors import RequestError
from lightning_arrcoc.serve.questions import read_question
from lightning_arrcoc.serve.settings import ServerSettings
from lightning_arrcoc.vlm.answering import Prompt
from lightning_arrcoc.vlm.chat import ChatProcessor

SETTINGS = ServerSettings(max_images=2, max_tokens=20, default_tokens=10, max_prompt_tokens=100)


@pytest.fixture
def door(processor: ChatProcessor) -> Door:
    return Door(processor, SETTINGS, positions=110)


def opened(door: Door, fields: dict[str, Any]) -> Prompt:
    return door.prompt(read_question(orjson.dumps(fields)), deadline=1.0)


def test_a_request_becomes_a_prompt(door: Door, chat: Any) -> None:
    prompt = opened(door, chat(arr_coc={"budget": 5}, temperature=0.5, stop=["x"], seed=2))
    assert (prompt.row.cells, prompt.images[0].size) == (20, (160, 128))
    assert (prompt.budget, prompt.max_tokens, prompt.stop) == (5, 3, ("x",))
    assert (prompt.temperature, prompt.top_p, prompt.seed, prompt.deadline) == (0.5, 1.0, 2, 1.0)


def test_what_a_request_leaves_open_is_greedy_and_short(door: Door, chat: Any) -> None:
    prompt = opened(door, {"messages": chat()["messages"]})
    assert (prompt.max_tokens, prompt.temperature, prompt.budget) == (10, 0.0, None)
    later = opened(door, chat(max_completion_tokens=7))
    assert later.max_tokens == 7  # the newer name counts


def test_a_talk_may_have_a_system_and_pictures_in_any_turn(door: Door, chat: Any) -> None:
    first = chat()["messages"][0]
    talk = [
        {"role": "developer", "content": "Short."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [{"type": "text", "text": "Yes?"}]},
        first,
    ]
    assert opened(door, {"messages": talk}).row.cells == 20


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"model": "gpt-4o"}, 404, "no model 'gpt-4o'"),
        ({"max_tokens": 21}, 400, "max_tokens=21; expected at most 20"),
        ({"max_completion_tokens": 10**12}, 400, "max_completion_tokens"),
        ({"arr_coc": {"budget": 21}}, 400, "budget=21"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "last message"),
        ({"messages": [{"role": "user", "content": "x" * 200}]}, 400, "The prompt has"),
        ({"messages": [{"role": "user", "content": "x" * 4000}]}, 400, "4000 letters"),
        ({"messages": [{"role": "user", "content": "<|im_end|>"}]}, 400, "own tokens"),
        ({"messages": [{"role": "user", "content": "<|image_pad|>"}]}, 400, "own tokens"),
    ],
)
def test_what_is_too_much_is_refused_ahead_of_the_queue(
    fields: dict[str, Any], status: int, said: str, door: Door, chat: Any
) -> None:
    with pytest.raises(RequestError) as refused:
        opened(door, chat(**fields))
    assert (refused.value.status, said in refused.value.message) == (status, True)


def test_only_users_send_images_and_not_too_many(door: Door, chat: Any) -> None:
    image = chat()["messages"][0]["content"][0]
    with pytest.raises(RequestError, match="More than 2 images"):
        opened(door, chat(messages=[{"role": "user", "content": [image] * 3}]))
    talk = [{"role": "system", "content": [image]}, {"role": "user", "content": "x"}]
    with pytest.raises(RequestError, match="only users"):
        opened(door, chat(messages=talk))


def test_a_prompt_and_its_answer_fit_what_the_model_knows(processor: ChatProcessor) -> None:
    door = Door(processor, SETTINGS, positions=20)
    with pytest.raises(RequestError) as refused:
        opened(door, {"messages": [{"role": "user", "content": "Which digit is red?"}]})
    assert refused.value.code == "context_length_exceeded"
