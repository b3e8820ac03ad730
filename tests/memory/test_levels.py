"""A threshold speaks once on the way up."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_arrcoc.memory.levels import Levels
from lightning_arrcoc.memory.readings import GIB


def test_each_speaks_once_until_memory_has_been_below_both() -> None:
    levels = Levels(0.5, 0.8)
    used = [40, 60, 70, 85, 60, 90, 40, 60, 40, 95]
    assert [levels.passed(one, 100) for one in used] == [
        None, "warning", None, "critical", None, None, None, "warning", None, "critical",
    ]  # fmt: skip


def test_above_one_they_are_gib() -> None:
    levels = Levels(2, 3.5)
    assert levels.passed(2 * GIB - 1, 8 * GIB) is None
    assert levels.passed(2 * GIB, 8 * GIB) == "warning"
    assert levels.too_large(3 * GIB) == "critical"
    assert levels.too_large(4 * GIB) is None
    assert levels.too_large(None) is None


def test_one_alone_will_do() -> None:
    assert Levels(None, 0.9).passed(95, 100) == "critical"
    assert Levels(None, None).passed(100, 100) is None


@pytest.mark.parametrize(
    ("thresholds", "says"),
    [
        ((0.9, 0.8), "expected warning below critical"),
        ((0.9, 0.9), "expected warning below critical"),
        ((20, 10), "expected warning below critical"),
        ((0.9, 20), "two of a sort"),
        ((20, 0.9), "two of a sort"),
        ((0, 0.9), "warning=0"),
        ((-1, None), "warning=-1"),
        ((None, float("nan")), "critical=nan"),
        ((None, "0.9"), "critical='0.9'"),
        ((True, None), "warning=True"),
    ],
)
def test_what_is_out_of_order_is_refused(thresholds: tuple[Any, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Levels(*thresholds)
