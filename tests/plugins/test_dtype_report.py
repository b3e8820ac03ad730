"""The table of dtypes."""

from __future__ import annotations

import torch
from torch import nn

from lightning_arrcoc.plugins.dtype_report import dtype_rows, table
from lightning_arrcoc.plugins.island_patterns import find_islands


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(4), nn.Linear(4, 4)
        self.gain = nn.Parameter(torch.ones(3))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4).requires_grad_(False)
        self.layers = nn.ModuleList([Block() for _ in range(3)])
        self.act = nn.GELU()
        self.scale = nn.Parameter(torch.ones(2))


def rows(*patterns: str) -> list[tuple[object, ...]]:
    return [tuple(row) for row in dtype_rows(find_islands(Net(), patterns), torch.bfloat16)]


def test_parts_alike_share_a_row_and_every_parameter_is_counted_once() -> None:
    found = rows("*.norm")
    assert found == [
        ("(itself)", "float32", "bfloat16", 2, 2, 1),
        ("embed", "float32", "bfloat16", 40, 0, 1),
        ("layers.*", "float32", "bfloat16", 9, 9, 3),
        ("layers.*.norm", "float32", "float32", 24, 24, 3),
        ("layers.*.linear", "float32", "bfloat16", 60, 60, 3),
    ]
    assert sum(row[3] for row in found) == sum(p.numel() for p in Net().parameters())  # type: ignore[misc]


def test_without_islands_there_is_a_row_for_each_part() -> None:
    assert [row[0] for row in rows()] == ["(itself)", "embed", "layers"]


def test_an_island_without_parameters_has_a_row_too() -> None:
    assert ("act", "-", "float32", 0, 0, 1) in rows("act")


def test_several_dtypes_are_named_together() -> None:
    net = Net()
    net.layers[0].to(torch.bfloat16)
    found = {row.module: row for row in dtype_rows(find_islands(net, ["embed"]), torch.bfloat16)}
    assert found["layers"].parameter_dtype == "bfloat16+float32"


def test_the_table_says_what_trains_below_fp32() -> None:
    net = Net().to(torch.bfloat16)
    text = table(dtype_rows(find_islands(net, ["embed"]), torch.bfloat16))
    assert "95 trainable parameters are no fp32" in text
    assert "layers" in text.splitlines()[3]
    assert "trainable parameters" not in table(dtype_rows(find_islands(Net(), []), torch.bfloat16))
