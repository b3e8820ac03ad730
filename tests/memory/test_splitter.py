"""What fits is remembered, and more is tried again later."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_arrcoc.memory.splitter import Splitter
from lightning_arrcoc.memory.splitting import CannotSplitError

BATCH = torch.zeros(12, 3)


def lengths(splitter: Splitter, batch: Any = BATCH) -> list[int]:
    return [len(part.batch) for part in splitter.parts(batch)]


def test_it_halves_until_one_sample_is_left() -> None:
    splitter = Splitter("mean", 3)
    assert lengths(splitter) == []
    found = []
    while splitter.lower(BATCH):
        found.append((splitter.most, lengths(splitter)))
    assert found == [(6, [6, 6]), (3, [3] * 4), (2, [2] * 6), (1, [1] * 12)]


def test_it_doubles_after_a_while_until_the_batch_is_whole() -> None:
    splitter = Splitter("mean", 3)
    for _ in range(3):
        splitter.lower(BATCH)
    found = [splitter.most]
    for _ in range(9):
        splitter.went_well(len(splitter.parts(BATCH)))
        found.append(splitter.most)
    assert found == [2, 2, 2, 4, 4, 4, 8, 8, 8, None]


def test_a_doubling_that_fails_waits_twice_as_long() -> None:
    splitter = Splitter("mean", 3)
    splitter.lower(BATCH)
    assert [splitter.went_well(2) for _ in range(3)] == [False, False, True]
    splitter.lower(BATCH)
    assert [splitter.went_well(2) for _ in range(6)] == [False] * 5 + [True]


def test_a_smaller_batch_than_fits_is_run_whole() -> None:
    splitter = Splitter("mean", 3)
    splitter.lower(BATCH)
    assert lengths(splitter, torch.zeros(5, 3)) == []


def test_a_module_s_own_way_is_taken() -> None:
    def cut(batch: Any, most: int) -> list[tuple[Any, float]]:
        return [(batch["x"][start : start + most], 0.5) for start in range(0, 4, most)]

    splitter = Splitter("mean", 3)
    assert splitter.lower({"x": torch.zeros(4)}, cut)
    assert [part.share for part in splitter.parts({"x": torch.zeros(4)}, cut)] == [0.5, 0.5]


def test_what_nobody_can_split_is_said() -> None:
    with pytest.raises(CannotSplitError):
        Splitter("mean", 3).lower(object())


def test_it_goes_on_where_it_was() -> None:
    first, second = Splitter("mean", 3), Splitter("mean", 3)
    first.lower(BATCH)
    first.went_well(2)
    second.restore(first.state())
    assert second.state() == first.state() == {"most": 6, "calm": 1, "patience": 3}
