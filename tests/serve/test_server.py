"""One server, started by the command, from the first question to SIGTERM."""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import torch

from lightning_arrcoc import ArrCocModule, ArrCocQwen3VL
from lightning_arrcoc.plugins.checkpoint_file import write_checkpoint
from lightning_arrcoc.plugins.manifest import STAMPS
from lightning_arrcoc.serve.settings import KEY_VARIABLE
from lightning_arrcoc.vlm.identity import backbone_identity

from ..conftest import FORKED, WARM
from .bad_requests import bad_requests

pytest.importorskip("litserve")
pytest.importorskip("prometheus_client")
openai = pytest.importorskip("openai")
httpx = pytest.importorskip("httpx")

KEY = "the-key-of-this-test"
PROGRAM = "from lightning_arrcoc.cli import main\n\nif __name__ == '__main__':\n    main()\n"
PATIENCE_S = 300
LIMITS = ("max_queue=4", "max_batch=4", "max_body_mib=1", "max_image_mib=0.5")


class Served(NamedTuple):
    """A running server."""

    url: str
    process: Any
    said: Path


def save_untrained(path: Path, backbone: Path) -> None:
    torch.manual_seed(0)
    model = ArrCocQwen3VL.from_pretrained(str(backbone), dtype="float32")
    weights = {f"arr_coc.{name}": value for name, value in model.arr_coc.state_dict().items()}
    content: dict[str, object] = {
        "state_dict": weights,
        "backbone": backbone_identity(model.backbone),
        "pytorch-lightning_version": "2.6.6",
        STAMPS: {"architecture": {"own": ArrCocModule(model).architecture()}},
    }
    write_checkpoint(content, path)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, backbone_folder: Path) -> Iterator[Served]:
    """Random weights hardly ever end an answer, so that there is one to be in the middle of."""
    folder = tmp_path_factory.mktemp("server")
    save_untrained(folder / "one.ckpt", backbone_folder)
    (folder / "program.py").write_text(PROGRAM)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["serve", "ckpt=one.ckpt", f"model.backbone={backbone_folder}",
             f"server.port={port}", *(f"server.{limit}" for limit in LIMITS)]  # fmt: skip
    given = {
        "command": [str(folder / "program.py"), *words], "folder": str(folder),
        "outputs": (str(folder / "out"), str(folder / "err")),
        "environment": {**os.environ, KEY_VARIABLE: KEY, "OMP_NUM_THREADS": "1"},
    }  # fmt: skip
    process = FORKED.Process(target=runpy.run_path, args=(str(WARM), {"GIVEN": given}, "warm"))
    process.start()
    served = Served(f"http://127.0.0.1:{port}", process, folder / "err")
    family = []
    try:
        until = time.monotonic() + PATIENCE_S
        while not is_ready(served.url):
            assert process.is_alive(), served.said.read_text()
            assert time.monotonic() < until, served.said.read_text()
            time.sleep(0.1)
        family = psutil.Process(process.pid).children(recursive=True)
        yield served
    finally:
        process.terminate()
        process.join(PATIENCE_S)
        for child in [p for p in family if p.is_running()]:
            child.kill()


def is_ready(url: str) -> bool:
    try:
        return bool(httpx.get(f"{url}/health", timeout=10).status_code == 200)
    except httpx.HTTPError:
        return False


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
    server: Served, web: Any, chat: Any
) -> None:
    family = psutil.Process(server.process.pid).children(recursive=True)
    chunks: list[str] = []
    begun = threading.Event()

    def listen() -> None:
        fields = chat(max_tokens=150, stream=True)
        with web.stream("POST", "/v1/chat/completions", json=fields) as answer:
            for line in answer.iter_lines():
                chunks.append(line)
                begun.set()

    listener = threading.Thread(target=listen)
    listener.start()
    assert begun.wait(PATIENCE_S)
    os.kill(server.process.pid, signal.SIGTERM)
    listener.join(PATIENCE_S)
    server.process.join(PATIENCE_S)
    said = [line for line in chunks if line]
    assert said[-1] == "data: [DONE]"
    assert json.loads(said[-2][6:])["choices"][0]["finish_reason"] in ("stop", "length")
    assert server.process.exitcode == 143
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
    told = server.said.read_text()
    assert KEY not in told
    assert "Traceback" not in told
