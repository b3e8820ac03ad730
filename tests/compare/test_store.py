"""What was used last stays, as far as there is room."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_arrcoc.compare.errors import SwapError
from lightning_arrcoc.compare.reading import FileStamp, Weights
from lightning_arrcoc.compare.store import WeightStore

BUILD: Any = None


def weights(size: int, stamp: int = 0) -> Weights:
    return Weights({"w": torch.zeros(size, dtype=torch.uint8)}, BUILD, None, file(stamp))


def file(stamp: int = 0) -> FileStamp:
    return (0, 0, 0, 0, stamp)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 50)), max_size=30))
def test_neither_count_nor_bytes_are_ever_exceeded(asked: list[tuple[str, int]]) -> None:
    store, sizes, used = WeightStore(3, 100), dict(asked), []
    for name, _ in asked:
        if store.get(name, file()) is None:
            store.make_room(name, sizes[name])
            assert len(store) <= 2
            assert store.bytes + sizes[name] <= 100
            store.put(name, weights(sizes[name]))
        used = [other for other in used if other != name] + [name]
        assert len(store) <= 3
        assert store.bytes <= 100
        assert store.names == used[len(used) - len(store) :], "not the last used"


def test_what_was_read_from_another_file_is_forgotten() -> None:
    store = WeightStore(2, 100)
    store.put("a", weights(10, stamp=1))
    assert store.get("a", file(1)) is not None
    assert store.get("a", file(2)) is None
    assert len(store) == store.bytes == 0


def test_what_is_larger_than_everything_is_refused_and_nothing_forgotten() -> None:
    store = WeightStore(2, 100)
    store.put("a", weights(10))
    with pytest.raises(SwapError, match="Raise max_cache_mb"):
        store.make_room("b", 101)
    assert store.names == ["a"]
