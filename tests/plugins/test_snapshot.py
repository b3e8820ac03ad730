"""A copy that training cannot change, and that saves as the original would have."""

from __future__ import annotations

import io
from collections import OrderedDict

import torch

from lightning_arrcoc.plugins.snapshot import Snapshots


def saved(checkpoint: object) -> int:
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    return len(buffer.getvalue())


def test_the_copy_stays_when_the_original_changes() -> None:
    weight = torch.ones(3)
    taken = Snapshots().take({"a": [weight, {"b": (weight, 1)}], "c": {"list": [1]}})
    weight.zero_()
    assert taken["a"][0].tolist() == taken["a"][1]["b"][0].tolist() == [1, 1, 1]


def test_what_shared_memory_shares_it_still() -> None:
    whole = torch.arange(1000.0).reshape(10, 100)
    checkpoint = {"whole": whole, "row": whole[3], "turned": whole.t(), "again": whole}
    taken = Snapshots().take(checkpoint)
    assert all(torch.equal(taken[name], value) for name, value in checkpoint.items())
    assert saved(taken) < saved(checkpoint) + 500  # once, not four times


def test_a_state_dict_keeps_its_type_and_metadata() -> None:
    state = torch.nn.BatchNorm1d(2).state_dict()
    taken = Snapshots().take({"state": state})["state"]
    assert type(taken) is OrderedDict
    assert taken._metadata == state._metadata


def test_memory_is_kept_from_one_copy_to_the_next() -> None:
    snapshots, weight = Snapshots(), torch.ones(100)
    first = snapshots.take({"a": weight})["a"].data_ptr()
    assert snapshots.take({"a": weight + 1})["a"].data_ptr() == first


def test_empty_and_odd_tensors_are_copied() -> None:
    odd = {"none": torch.empty(0), "scalar": torch.tensor(3), "half": torch.ones(2).bfloat16(),
           "sparse": torch.eye(2).to_sparse(), "flags": torch.tensor([True])}  # fmt: skip
    taken = Snapshots().take(odd)
    assert all(taken[name].dtype == value.dtype for name, value in odd.items())
    assert torch.equal(taken["sparse"].to_dense(), torch.eye(2))
