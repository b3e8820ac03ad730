"""What is alive is counted, and who keeps it is named."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from lightning_arrcoc.memory.tensors import Kind, census, copies, grown, keeper


class Holder:
    def __init__(self) -> None:
        self.kept: list[Tensor] = []


def test_what_became_more_is_named_with_who_keeps_it() -> None:
    holder, before = Holder(), census()
    holder.kept += [torch.zeros(17, 23) for _ in range(5)]
    first = grown(before)[0]
    assert first.kind == Kind((17, 23), "float32", "cpu", has_graph=False)
    assert (first.number, first.bytes) == (5, 5 * 17 * 23 * 4)
    assert first.kept_by == "in a list in attribute `kept` of Holder"
    assert str(first).startswith("5 more of (17, 23) float32 on cpu (0.0 MiB), in a list")


def test_losses_that_keep_their_graph_are_told_by_their_number() -> None:
    layer, losses, before = nn.Linear(3, 3), [], census()
    for _ in range(30):
        losses.append(layer(torch.zeros(1, 3)).sum())
    large = torch.zeros(100, 100)
    found = grown(before, most=1)
    assert [one.kind.shape for one in found] == [(100, 100), ()]
    assert found[1].kind.has_graph
    assert "with the graph it came from" in str(found[1])
    del large


def test_nothing_new_is_nothing_grown() -> None:
    assert grown(census()) == []


def test_a_dictionary_s_key_is_named() -> None:
    cache: dict[str, Any] = {"features": torch.zeros(5)}
    outer = [cache]
    assert keeper(cache["features"]) == "in a dict under 'features' in a list"
    del outer


def test_a_tensor_that_a_variable_alone_holds_has_no_keeper() -> None:
    alone = torch.zeros(3)
    assert keeper(alone) == "kept by nobody that Python knows"


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(211, 13), nn.Linear(13, 7))


def test_copies_of_the_parameters_are_counted() -> None:
    module = model()
    assert copies(module.parameters()) == 1
    averaged = copy.deepcopy(module)
    kept = [{key: value.clone() for key, value in module.state_dict().items()} for _ in range(2)]
    assert copies(module.parameters()) == 4
    del averaged, kept
    assert copies(module.parameters()) == 1


def test_gradients_and_states_of_the_optimizer_are_copies_too() -> None:
    module = model()
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.zeros(2, 211)).sum().backward()
    optimizer.step()
    assert copies(module.parameters()) == 4


def test_views_are_no_copies() -> None:
    module = model()
    views = [[value.view_as(value) for value in module.parameters()] for _ in range(5)]
    assert copies(module.parameters()) == 1
    assert views


def test_without_parameters_there_are_no_copies() -> None:
    assert copies([]) == 0
