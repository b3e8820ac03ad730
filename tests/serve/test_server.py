"""One server, from the first question to SIGTERM."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from .bad_requests import bad_requests

pytest.importorskip("litserve")
pytest.importorskip("prometheus_client")
openai = pytest.importorskip("openai")
httpx = pytest.importorskip("httpx")

from .running import KEY, PATIENCE_S, Served, started, stop_in_the_middle  # noqa: E402


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, backbone_folder: Path) -> Iterator[Served]:
    with started(tmp_path_factory.mktemp("server"), backbone_folder) as served:
        yield served


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def web(server: Served) -> Iterator[Any]:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=PATIENCE_S) as made:
        yield made


def metric(web: Any, name: str) -> float:
    lines = web.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def test_openais_client_chats_and_is_told_what_was_read(client: Any, chat: Any) -> None:
    answer = client.chat.completions.create(model="arr-coc", **chat(seed=1))
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.arr_coc["visual_tokens"] == 2  # a tenth of 20
    assert usage.prompt_tokens == usage.arr_coc["text_tokens"] + 2
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    plain = client.chat.completions.create(
        model="arr-coc", messages=[{"role": "user", "content": "Hello"}], max_completion_tokens=2
    )
    assert (plain.usage.completion_tokens, plain.usage.arr_coc["visual_tokens"]) == (2, 0)


def test_the_model_is_listed(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["arr-coc"]
    assert client.models.retrieve("arr-coc").object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4o")


def test_a_budget_is_spent_and_explained(client: Any, chat: Any) -> None:
    asked = {"arr_coc": {"budget": 7, "explain": True}}
    answer = client.chat.completions.create(model="arr-coc", extra_body=asked, **chat())
    (image,) = answer.arr_coc["images"]
    assert (image["grid"], image["tokens"], image["tokens_of_all"]) == ([4, 5], 7, 20)
    assert len(image["kept"]) == 7
    assert set(image["tensions"]) == {"exploit", "compress", "focus"}
    assert [len(row) for row in image["relevance"]] == [5] * 4
    assert answer.usage.arr_coc["visual_tokens_saved"] == 13


def test_a_stream_says_the_same_piece_by_piece(client: Any, chat: Any) -> None:
    fields = chat(max_tokens=12, seed=2, temperature=1.5)
    whole = client.chat.completions.create(model="arr-coc", **fields)
    chunks = list(client.chat.completions.create(
        model="arr-coc", stream=True, stream_options={"include_usage": True}, **fields
    ))  # fmt: skip
    said = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(said) == whole.choices[0].message.content
    assert len([word for word in said if word]) > 1
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_several_at_once_with_budgets_of_their_own_get_their_own_answers(
    client: Any, chat: Any
) -> None:
    def tokens(budget: int) -> int:
        asked = {"arr_coc": {"budget": budget}}
        answer = client.chat.completions.create(model="arr-coc", extra_body=asked, **chat())
        return int(answer.usage.arr_coc["visual_tokens"])

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(tokens, (1, 5, 20, 9))) == [1, 5, 20, 9]


def test_errors_are_those_that_openais_client_knows(client: Any, chat: Any, server: Served) -> None:
    create = client.chat.completions.create
    with pytest.raises(openai.BadRequestError, match="expected a number of tokens") as bad:
        create(model="arr-coc", extra_body={"arr_coc": {"budget": 1.5}}, **chat())
    assert (bad.value.param, bad.value.code) == ("arr_coc.budget", "invalid_value")
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-4o'"):
        create(model="gpt-4o", **chat())
    stranger = client.with_options(api_key="wrong")
    with pytest.raises(openai.AuthenticationError):
        stranger.chat.completions.create(model="arr-coc", **chat())
    too_much = {"role": "user", "content": "x" * 2**20}
    with pytest.raises(openai.APIStatusError, match="more than 1 MiB") as large:
        create(model="arr-coc", messages=[too_much])
    assert large.value.status_code == 413


def test_what_is_sent_without_its_length_is_counted_too(web: Any) -> None:
    endless = (b" " * 2**16 for _ in range(64))
    answer = web.post("/v1/chat/completions", content=endless)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


def test_what_lies_elsewhere_is_answered_in_the_same_form(web: Any) -> None:
    assert web.get("/v1/embeddings").json()["error"]["type"] == "not_found_error"
    assert web.get("/v1/chat/completions").status_code == 405
    assert web.get("/docs").status_code == 404
    assert web.get("/v1/models", headers={"Host": "evil.example.com"}).status_code == 403
    form = web.post("/v1/chat/completions", content=b"{}", headers={"Content-Type": "text/plain"})
    assert form.json()["error"]["message"] == "Content-Type must be application/json."


def test_two_hundred_bad_requests_are_refused_and_a_good_one_is_answered(
    web: Any, chat: Any
) -> None:
    bodies = list(bad_requests(chat()))
    assert len(bodies) >= 200
    for body in bodies:
        answer = web.post("/v1/chat/completions", content=body)
        assert answer.status_code in (400, 404, 413), (body[:300], answer.text)
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert web.post("/v1/chat/completions", json=chat()).status_code == 200
    assert metric(web, "arr_coc_queue_length") == 0


def test_more_than_the_queue_takes_are_told_to_come_again(client: Any, web: Any, chat: Any) -> None:
    def asked(_: int) -> Any:
        try:
            fields = chat(max_tokens=40)
            return client.chat.completions.create(model="arr-coc", **fields)
        except openai.RateLimitError as error:
            return error

    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(asked, range(32)))
    refused = [one for one in found if isinstance(one, openai.RateLimitError)]
    assert 0 < len(refused) < 32
    assert all(int(one.response.headers["Retry-After"]) >= 1 for one in refused)
    assert metric(web, 'arr_coc_requests_total{status="429"}') == len(refused)


def test_who_leaves_in_the_middle_of_a_stream_leaves_nothing_behind(web: Any, chat: Any) -> None:
    fields = chat(max_tokens=15, stream=True)
    for _ in range(5):  # more than the queue takes
        with web.stream("POST", "/v1/chat/completions", json=fields) as answer:
            next(answer.iter_bytes())
        until = time.monotonic() + PATIENCE_S
        while metric(web, "arr_coc_queue_length") and time.monotonic() < until:
            time.sleep(0.05)
    assert web.post("/v1/chat/completions", json=chat()).status_code == 200


def test_prometheus_is_told_of_all_that(web: Any) -> None:
    assert metric(web, 'arr_coc_requests_total{status="200"}') > 10
    assert metric(web, 'arr_coc_requests_total{status="400"}') > 150
    assert metric(web, 'arr_coc_visual_tokens_total{kind="saved"}') > 0
    assert metric(web, "arr_coc_request_seconds_count") > 200


def test_the_last_answer_is_finished_when_the_server_is_told_to_stop(
    server: Served, chat: Any
) -> None:
    assert stop_in_the_middle(server, chat(max_tokens=150), signal.SIGTERM) == 143


def test_the_last_answer_is_finished_after_ctrl_c(
    tmp_path: Path, backbone_folder: Path, chat: Any
) -> None:
    with started(tmp_path, backbone_folder) as served:
        assert stop_in_the_middle(served, chat(max_tokens=150), signal.SIGINT) == 130
