"""One at a time, in the order in which they came, and never for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import torch

from lightning_arrcoc.compare.errors import LineFullError, LineTimeoutError, StoppedError
from lightning_arrcoc.compare.turns import Line, line_of

LONG_S = 60.0


def start(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def until(claim: Callable[[], bool]) -> None:
    ends = time.monotonic() + LONG_S
    while not claim():
        assert time.monotonic() < ends
        time.sleep(0.001)


def test_first_come_is_first_served_and_nobody_comes_between() -> None:
    line, served, inside = Line(), [], []

    def one(number: int) -> None:
        with line.turn(LONG_S):
            inside.append(number)
            assert inside == [number], "two at once"
            served.append(number)
            time.sleep(0.002)
            inside.remove(number)

    with line.turn(LONG_S):
        threads = []
        for number in range(8):
            threads.append(start(lambda number=number: one(number)))  # type: ignore[misc]
            until(lambda number=number: line.waiting == number + 1)  # type: ignore[misc]
    for thread in threads:
        thread.join()
    assert served == list(range(8))
    with line.turn(0.1):
        pass


def test_a_full_line_turns_away_at_once() -> None:
    line = Line()
    with line.turn(LONG_S):
        waiting = start(lambda: line.turn(LONG_S, 1).__enter__())
        until(lambda: line.waiting == 1)
        errors: list[BaseException] = []
        start(lambda: errors.append(refused(lambda: line.turn(LONG_S, 1).__enter__()))).join()
        start(lambda: errors.append(refused(lambda: line.turn(0.01, None).__enter__()))).join()
    waiting.join()
    assert isinstance(errors[0], LineFullError)
    assert "no more than 1" in str(errors[0])
    assert isinstance(errors[1], LineTimeoutError), "who does not mind may join"


def refused(work: Callable[[], object]) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        work()
    return caught.value


def test_who_waited_too_long_or_stops_leaves_the_line() -> None:
    line = Line()
    with line.turn(LONG_S):
        errors: list[BaseException] = []
        start(lambda: errors.append(refused(lambda: line.turn(0.02).__enter__()))).join()
        asked: list[int] = []

        def stop() -> bool:
            asked.append(1)
            return len(asked) == 2

        start(lambda: errors.append(refused(lambda: line.turn(LONG_S, 9, stop).__enter__()))).join()
        assert line.waiting == 0
    assert isinstance(errors[0], LineTimeoutError)
    assert "timeout_s" in str(errors[0])
    assert isinstance(errors[1], StoppedError)
    with line.turn(0.1):
        pass


def test_a_turn_ends_with_an_exception_too() -> None:
    line = Line()
    with pytest.raises(KeyError), line.turn(LONG_S):
        raise KeyError
    with line.turn(0.1):
        pass


def test_a_thread_does_not_wait_for_itself() -> None:
    line = Line()
    with line.turn(LONG_S), pytest.raises(RuntimeError, match="wait for itself"):
        line.turn(LONG_S).__enter__()
    with line.turn(0.1):
        pass


def test_comparators_of_one_device_share_a_line() -> None:
    assert line_of(torch.device("cpu")) is line_of(torch.device("cpu", 0))
