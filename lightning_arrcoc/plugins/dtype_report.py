"""Which part of a module holds and computes in which dtype."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

from lightning_arrcoc.plugins.island_patterns import Found, children

FP32 = "float32"


class DtypeRow(NamedTuple):
    """One part of a module, or several alike.

    Attributes:
        module: its name; a number that differs between parts alike is a ``*``.
        parameter_dtype: of its parameters; several are joined by "+", "-" where there are none.
        compute_dtype: what it computes in.
        parameters: how many.
        trainable: how many of them get gradients.
        alike: parts that the row stands for.
    """

    module: str
    parameter_dtype: str
    compute_dtype: str
    parameters: int
    trainable: int
    alike: int = 1


def dtype_rows(found: Found, dtype: torch.dtype) -> list[DtypeRow]:
    """As few rows as tell islands from the rest, in the order of the module.

    Args:
        found: islands and others.
        dtype: what the others compute in.
    """
    merged: dict[tuple[str, str, str], DtypeRow] = {}
    for row in _rows(found, _spoken(dtype)):
        row = row._replace(module=re.sub(r"(?<=\.)\d+(?=\.|$)", "*", row.module))
        key = row[:3]
        if key in merged:
            before = merged[key]
            row = row._replace(
                parameters=before.parameters + row.parameters,
                trainable=before.trainable + row.trainable,
                alike=before.alike + 1,
            )
        merged[key] = row
    return list(merged.values())


def table(rows: list[DtypeRow]) -> str:
    """The rows as text, and what there is to know about them."""
    lines = [("module", "parameters in", "computes in", "parameters", "trainable")]
    for row in rows:
        name = f"{row.module} (x{row.alike})" if row.alike > 1 else row.module
        counts = f"{row.parameters:,}", f"{row.trainable:,}"
        lines.append((name, row.parameter_dtype, row.compute_dtype, *counts))
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    left, right = widths[:3], widths[3:]
    text = [
        "  ".join(
            [
                *(cell.ljust(width) for cell, width in zip(line, left, strict=False)),
                *(cell.rjust(width) for cell, width in zip(line[3:], right, strict=True)),
            ]
        ).rstrip()
        for line in lines
    ]
    rounded = sum(row.trainable for row in rows if row.parameter_dtype not in (FP32, "-"))
    if rounded:
        text.append(
            f"{rounded:,} trainable parameters are no fp32: steps smaller than their rounding are "
            "lost. Keep what trains in keep_fp32, and what is frozen out of it."
        )
    return "\n".join(text)


def _rows(found: Found, computes: str) -> Iterator[DtypeRow]:
    """Islands, the largest parts without one, and tensors that lie beside them."""

    def visit(name: str, module: nn.Module) -> Iterator[DtypeRow]:
        if name in found.islands:
            yield _row(name, module, FP32, recurse=True)
            return
        is_divided = not name or any(island.startswith(f"{name}.") for island in found.islands)
        row = _row(name or "(itself)", module, computes, recurse=not is_divided)
        if row.parameters:
            yield row
        if is_divided:
            for child in children(name, module):
                yield from visit(*child)

    return visit("", found.others[""])


def _row(name: str, module: nn.Module, computes: str, *, recurse: bool) -> DtypeRow:
    parameters = list(module.parameters(recurse=recurse))
    dtypes = sorted({_spoken(parameter.dtype) for parameter in parameters})
    return DtypeRow(
        name,
        "+".join(dtypes) or "-",
        computes,
        sum(parameter.numel() for parameter in parameters),
        sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
    )


def _spoken(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
