"""Python collects when it is told to, and afterwards as before."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from lightning_arrcoc.memory.collecting import Collecting


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The generations that were collected."""
    found: list[int] = []
    monkeypatch.setattr(gc, "collect", lambda generation=2: found.append(generation))
    yield found
    gc.enable()


def test_young_cycles_are_collected_at_fixed_steps_and_old_ones_more_rarely(
    asked: list[int],
) -> None:
    collecting = Collecting(3)
    collecting.start()
    asked.clear()
    for _ in range(40):
        collecting.step()
        collecting.all()
    assert asked == [1] * 10 + [2] + [1] * 3
    collecting.stop()


def test_left_out_it_does_nothing(asked: list[int]) -> None:
    collecting = Collecting(None)
    collecting.start()
    collecting.step()
    collecting.all()
    collecting.stop()
    assert asked == []
    assert gc.isenabled()


@pytest.mark.parametrize("enabled", [True, False])
def test_what_was_set_before_comes_back(asked: list[int], enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()
    collecting = Collecting(3)
    collecting.start()
    collecting.start()
    assert not gc.isenabled()
    collecting.stop()
    assert gc.isenabled() == enabled
    collecting.stop()
    assert gc.isenabled() == enabled
