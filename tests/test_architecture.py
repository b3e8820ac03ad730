"""What two architectures differ in, and what of one fits into the other."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lightning_arrcoc.architecture import (
    MOST_ROWS,
    ArchitectureError,
    architecture_of,
    as_table,
    differences,
    refuse_other,
    what_fits,
)


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.BatchNorm1d(3)
        self.layer.register_buffer("passing", torch.zeros(9), persistent=False)


def test_what_a_state_dict_has_is_told_and_nothing_else() -> None:
    module = Module()
    told = architecture_of(module)
    assert told["own"] == {}
    assert told["shapes"] == {name: list(v.shape) for name, v in module.state_dict().items()}


def test_a_tensor_that_deepspeed_keeps_elsewhere_tells_its_shape() -> None:
    module = Module()
    module.layer.weight.data = torch.empty(0)
    module.layer.weight.ds_shape = torch.Size([3])  # type: ignore[attr-defined]
    assert architecture_of(module)["shapes"]["layer.weight"] == [3]


@pytest.mark.parametrize(
    ("saved", "here", "rows"),
    [
        ({"a": 1, "b": {"c": (2, 3)}}, {"a": 1, "b": {"c": [2, 3]}}, []),
        ({"a": 1}, {"a": 2}, [["a", "1", "2"]]),
        ({"a": {"b": 1}}, {"a": {"d": 1}}, [["a.b", "1", "absent"], ["a.d", "absent", "1"]]),
        ({"n": ["x", "y"]}, {"n": ["y"]}, [["n.x", "0", "absent"], ["n.y", "1", "0"]]),
        ({"a": 1, "may_differ": {"b": 1}}, {"a": 1, "may_differ": {"b": 2}}, []),
        ({}, {"a": 2}, []),  # not told, not compared
    ],
)
def test_rows_are_named_by_what_differs(
    saved: dict[str, Any], here: dict[str, Any], rows: list[list[str]]
) -> None:
    assert differences({"own": saved}, {"own": here}) == rows


def test_a_class_may_have_moved_and_is_told_beside_other_differences() -> None:
    saved, here = {"class": "a.Model", "own": {"n": 1}}, {"class": "b.Model", "own": {"n": 1}}
    assert differences(saved, here) == []
    here["own"] = {"n": 2}
    assert differences(saved, here) == [["class", "a.Model", "b.Model"], ["n", "1", "2"]]
    with pytest.raises(ArchitectureError, match="nothing was loaded"):
        refuse_other(saved, here)


def test_a_long_table_says_how_much_it_leaves_out() -> None:
    table = as_table([[str(number), "1", "2"] for number in range(MOST_ROWS + 7)])
    assert table.endswith("and 7 more")
    assert len(table.splitlines()) == MOST_ROWS + 2


def test_weights_fit_by_name_or_the_end_of_one_and_by_shape() -> None:
    state = {"model.a.weight": torch.zeros(2), "model.b.weight": torch.zeros(3)}
    ones, wide = torch.ones(2), torch.ones(9)
    assert what_fits({"model.a.weight": ones}, state) == {"model.a.weight": ones}
    assert what_fits({"a.weight": ones}, state) == {"model.a.weight": ones}
    assert what_fits({"a.weight": wide, "weight": ones, "c": ones}, state) == {}
