"""Any batch is cut where its samples are known, and refused where they are not."""

from __future__ import annotations

from collections import UserDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from lightning_arrcoc.memory.splitting import CannotSplitError, has_ignored_labels, samples, split


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Record:
    x: Tensor
    names: list[str]


def rows(count: int, *shape: int) -> Tensor:
    return torch.arange(count).reshape(count, *([1] * len(shape))).expand(count, *shape).float()


X, Y = rows(7, 3), torch.arange(7)

BATCHES: dict[str, Any] = {
    "a tensor": X,
    "a list of input and target": [X, Y],
    "a tuple": (X, Y),
    "a named tuple": Pair(X, Y),
    "a mapping": {"x": X, "y": Y, "temperature": 0.5, "scale": torch.tensor(2.0), "name": "train"},
    "nested": {"inputs": {"ids": X, "more": [X, Y]}, "answers": [str(one) for one in range(7)]},
    "an encoding": UserDict({"x": X, "y": Y}),
    "a dataclass": Record(X, [str(one) for one in range(7)]),
    "pictures of all sizes": ([rows(5 + one, 2) for one in range(7)], Y),
    "boxes of detection": (
        tuple(torch.zeros(3, 4 + one, 5) for one in range(7)),
        tuple({"boxes": torch.zeros(one, 4)} for one in range(7)),
    ),
    "two views": {"views": [X, X + 1], "y": Y},
}


@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_is_cut_evenly_and_put_together_again(name: str) -> None:
    batch = BATCHES[name]
    assert samples(batch) == 7
    parts = split(batch, 2)
    assert len(parts) == 4
    assert all(type(part.batch) is type(batch) for part in parts)
    assert sum(part.share for part in parts) == pytest.approx(1)


def test_every_kind_of_thing_is_cut_at_the_same_place() -> None:
    batch = {
        "x": X, "pair": Pair(X, Y), "names": list("abcdefg"), "pictures": [rows(3, 2)] * 7,
        "scale": torch.tensor(2.0), "record": Record(X, list("abcdefg")),
    }  # fmt: skip
    first, second = (part.batch for part in split(batch, 4))
    assert first["x"].tolist() == X[:4].tolist()
    assert second["pair"].y.tolist() == [4, 5, 6]
    assert second["names"] == ["e", "f", "g"]
    assert len(first["pictures"]) == 4
    assert second["record"].names == ["e", "f", "g"]
    assert first["scale"] is batch["scale"]
    assert batch["record"].names == list("abcdefg")


def test_parts_share_the_memory_of_the_whole() -> None:
    assert all(
        part.batch.untyped_storage().data_ptr() == X.untyped_storage().data_ptr()
        for part in split(X, 2)
    )


def test_one_part_is_the_whole() -> None:
    (part,) = split(X, 100)
    assert torch.equal(part.batch, X)
    assert part.share == 1


def test_shares_are_those_of_the_reduction() -> None:
    labels = torch.tensor([[5, 1, 2, 3], [5, -100, -100, 7], [5, 1, -100, -100]])
    batch = {"x": torch.zeros(3, 2), "labels": labels}
    assert [part.share for part in split(batch, 2)] == pytest.approx([2 / 3, 1 / 3])
    assert [part.share for part in split(batch, 2, "sum")] == [1, 1]
    assert [part.share for part in split(batch, 2, "tokens")] == pytest.approx([4 / 5, 1 / 5])
    assert has_ignored_labels(batch)
    assert not has_ignored_labels({"labels": torch.zeros(3, 2)})
    assert not has_ignored_labels([labels])


REFUSED: dict[str, tuple[Any, str]] = {
    "packed patches": (
        {"pixel_values": torch.zeros(1024, 8), "input_ids": torch.zeros(4, 9)},
        r"\['pixel_values'\] has 1024, \['input_ids'\] has 4",
    ),
    "a list that may be either": ([torch.zeros(3, 8, 8), torch.zeros(3, 9, 9)], "no tensor that"),
    "a square of tensors": (
        {"views": [torch.zeros(2, 5), torch.zeros(2, 5)], "y": torch.zeros(2)},
        "may be a sample each or not, among 2",
    ),
    "tensors of other lengths": (
        {"views": [torch.zeros(3, 5), torch.zeros(3, 5)], "y": torch.zeros(4)},
        "are neither, among 4 samples",
    ),
    "nothing": ({}, "no tensor that has samples"),
    "an object": (object(), "a object with no tensor"),
    "no samples": (torch.zeros(0, 3), "no tensor that has samples"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_sure_is_refused(name: str) -> None:
    batch, says = REFUSED[name]
    with pytest.raises(CannotSplitError, match=says):
        split(batch, 2)


def test_what_a_batch_does_not_say_the_loader_may() -> None:
    regression = [torch.zeros(6, 3), torch.zeros(6, 1)]
    pictures = [torch.zeros(3, 8, 8), torch.zeros(3, 9, 9)]
    assert [len(part.batch[1]) for part in split(regression, 3, usual=6)] == [3, 3]
    assert [len(part.batch) for part in split(pictures, 1, usual=2)] == [1, 1]
    with pytest.raises(CannotSplitError, match="are neither, among 6"):
        split(pictures, 1, usual=6)


def test_tokens_need_labels() -> None:
    with pytest.raises(CannotSplitError, match="labels"):
        split({"x": X}, 2, "tokens")
