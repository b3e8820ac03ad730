"""Tensors of nested containers change dtype; what holds none stays the same object."""

from __future__ import annotations

from collections import OrderedDict, UserDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence
from transformers.modeling_outputs import BaseModelOutput

from lightning_arrcoc.plugins.casting import lowered, raised, tensors

HALF = torch.ones(2, dtype=torch.bfloat16)


class Pair(NamedTuple):
    first: Tensor
    second: int


@dataclass(frozen=True)
class Frozen:
    values: Tensor
    name: str = "name"


@dataclass
class Slotted:
    __slots__ = ("values",)
    values: list[Tensor]


@pytest.mark.parametrize(
    "tree",
    [
        HALF,
        HALF.half(),
        (HALF, 1),
        [HALF, {"deep": [HALF]}],
        {"a": HALF, "b": None},
        OrderedDict(a=HALF),
        UserDict(a=HALF),
        Pair(HALF, 3),
        Frozen(HALF),
        Slotted([HALF]),
        BaseModelOutput(last_hidden_state=HALF, hidden_states=(HALF, HALF)),
        torch.ones(2, 2, dtype=torch.bfloat16).max(0),
        pack_sequence([HALF, HALF]),
    ],
    ids=lambda tree: type(tree).__name__,
)
def test_16_bit_floats_are_raised_wherever_they_lie(tree: Any) -> None:
    changed = raised(tree)
    assert type(changed) is type(tree)
    floats = [tensor for tensor in tensors(changed) if tensor.is_floating_point()]
    assert floats
    assert all(tensor.dtype is torch.float32 for tensor in floats)
    assert all(t.dtype is not torch.float32 for t in tensors(tree)), "the given one was changed"


def test_an_output_of_transformers_keeps_attributes_and_keys_alike() -> None:
    made = raised(BaseModelOutput(last_hidden_state=HALF, hidden_states=(HALF,)))
    assert made.last_hidden_state is made["last_hidden_state"] is made[0]
    assert made.hidden_states[0].dtype is made["hidden_states"][0].dtype is torch.float32
    assert made.attentions is None


def test_other_fields_are_taken_over() -> None:
    assert raised(Frozen(HALF, "kept")).name == "kept"
    assert raised(Pair(HALF, 3)).second == 3


@pytest.mark.parametrize(
    "tree",
    [[1, "a"], {"x": torch.ones(1)}, [torch.ones(1).double()], (torch.ones(1, dtype=torch.int),)],
)
def test_what_needs_no_change_stays_the_same_object(tree: Any) -> None:
    assert raised(tree) is tree


def test_lowering_touches_fp32_alone() -> None:
    tree = [torch.ones(1), torch.ones(1).double(), torch.ones(1, dtype=torch.int), HALF.half()]
    dtypes = [tensor.dtype for tensor in lowered(tree, torch.bfloat16)]
    assert dtypes == [torch.bfloat16, torch.float64, torch.int32, torch.float16]


def test_gradients_flow_back_in_the_dtype_they_came_from() -> None:
    leaf = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    raised({"x": leaf})["x"].sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.dtype is torch.bfloat16
