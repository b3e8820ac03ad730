"""Batches, as the process with the model answers them."""

from __future__ import annotations

import os
import pickle
import queue
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

pytest.importorskip("litserve")

from lightning_arrcoc.serve import model_worker
from lightning_arrcoc.serve.lifeline import Lifeline
from lightning_arrcoc.serve.model_worker import BatchLoop, ChatApi
from lightning_arrcoc.serve.settings import ServerSettings
from lightning_arrcoc.serve.wire import Job, Told
from lightning_arrcoc.vlm.answering import Piece, Prompt, Tell
from lightning_arrcoc.vlm.messages import Row

SETTINGS = ServerSettings(max_batch=3, batch_wait_s=0.05)


def job(number: int, **more: Any) -> Job:
    deadline = more.pop("deadline", float("inf"))
    return Job(Prompt(Row([number], [0], 0), (), deadline=deadline), **more)


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Every prompt is answered by its own number in two pieces; 13 fails. Tells the batches."""
    batches: list[list[int]] = []

    def together(_: Any, prompts: Sequence[Prompt], tell: Tell) -> None:
        numbers = [prompt.row.input_ids[0] for prompt in prompts]
        batches.append(numbers)
        if 13 in numbers:
            raise RuntimeError("bad luck")
        for place, number in enumerate(numbers):
            tell(place, Piece(f"{number}", None, 1))
            tell(place, Piece("!", "stop", 2))

    monkeypatch.setattr(model_worker, "answer_together", together)
    return batches


@pytest.fixture
def api() -> ChatApi:
    made = ChatApi(lambda: None, SETTINGS, None, Lifeline())  # type: ignore[arg-type,return-value]
    made.model = object()  # type: ignore[assignment]
    return made


class Transport:
    """What was sent to whom, as it arrives."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, str, Told]] = []

    def send(self, item: Any, consumer_id: int) -> None:
        uid, (piece, *_) = pickle.loads(pickle.dumps(item))
        self.sent.append((consumer_id, uid, piece))


@pytest.fixture
def run(api: ChatApi) -> Callable[..., Transport]:
    """Answers one batch of what is in the queue."""

    def once(*jobs: Job) -> Transport:
        waiting: queue.Queue[Any] = queue.Queue()
        for number, one in enumerate(jobs):
            waiting.put((0, f"uid{number}", 0.0, one))
        transport = Transport()
        BatchLoop(SETTINGS).run(api, "cpu", 0, waiting, transport, {}, None)
        return transport

    return once


def test_those_who_wait_are_answered_together_up_to_a_batch(
    run: Callable[..., Transport], answered: list[list[int]]
) -> None:
    sent = run(job(1), job(2), job(3), job(4)).sent
    assert answered == [[1, 2, 3]]
    assert [(uid, piece.text, piece.reason) for _, uid, piece in sent] == [
        ("uid0", "1!", "stop"), ("uid1", "2!", "stop"), ("uid2", "3!", "stop"),
    ]  # fmt: skip


def test_a_stream_is_told_every_piece(
    run: Callable[..., Transport], answered: list[list[int]]
) -> None:
    sent = run(job(1, stream=True)).sent
    assert [(piece.text, piece.reason) for _, _, piece in sent] == [("1", None), ("!", "stop")]


def test_one_that_fails_does_not_spoil_the_others(
    run: Callable[..., Transport], answered: list[list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    sent = run(job(1), job(13), job(3)).sent
    assert {uid: piece.reason for _, uid, piece in sent} == {
        "uid0": "stop", "uid1": "error", "uid2": "stop",
    }  # fmt: skip
    assert answered == [[1, 13, 3], [1], [13], [3]]
    assert "bad luck" in caplog.text


def test_a_batch_that_failed_is_gone_from_memory_before_its_prompts_are_tried_again(
    run: Callable[..., Transport], monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []

    def together(_: Any, prompts: Sequence[Prompt], tell: Tell) -> None:
        cache = torch.zeros(3)
        alive.append(any(one() is not None for one in held))
        held.append(weakref.ref(cache))
        raise torch.OutOfMemoryError(f"{len(cache)} at once")

    monkeypatch.setattr(model_worker, "answer_together", together)
    monkeypatch.setattr(model_worker.log, "exception", lambda *_: None)  # pytest keeps its records
    run(job(1), job(2))
    assert alive == [False, False, False]


def test_who_waited_too_long_is_not_answered_any_more(
    run: Callable[..., Transport], answered: list[list[int]]
) -> None:
    sent = run(job(1, deadline=time.monotonic() - 1), job(2)).sent
    assert answered == [[2]]
    assert [(uid, piece.reason) for _, uid, piece in sent] == [
        ("uid0", "timeout"),
        ("uid1", "stop"),
    ]


def test_who_asked_a_process_that_is_dead_is_not_answered_by_the_next(
    run: Callable[..., Transport], answered: list[list[int]], api: ChatApi
) -> None:
    api.lifeline.cut()
    assert [piece.reason for *_, piece in run(job(1)).sent] == ["timeout"]
    assert answered == []


def test_an_empty_queue_is_waited_for_without_asking_again_and_again(
    run: Callable[..., Transport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_worker, "IDLE_S", 0.01)
    assert run().sent == []


def test_a_model_that_cannot_be_loaded_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_worker.signal, "signal", lambda *_: None)
    monkeypatch.setattr(model_worker, "keep_freed_memory", lambda: True)
    lifeline = Lifeline()

    def load() -> Any:
        raise ValueError("another backbone")

    with pytest.raises(SystemExit) as left:
        ChatApi(load, SETTINGS, None, lifeline).setup("cpu")
    assert left.value.code == 1
    assert list(lifeline.reports()) == [(os.getpid(), "ValueError: another backbone")]
