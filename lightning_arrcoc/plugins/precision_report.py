"""What a probe of precision finds."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from lightning_arrcoc.plugins.casting import tensors


class Difference(NamedTuple):
    """How far an output in low precision is from the one in fp32.

    Attributes:
        largest: over all values, in the output's own unit.
        mean: likewise, of the absolute differences.
        relative: norm of the differences by the norm of the fp32 output; infinite where values
            overflow or the module does not run in the low dtype.
    """

    largest: float
    mean: float
    relative: float


class ProbedModule(NamedTuple):
    """One module, and what low precision does to it.

    Attributes:
        module: its name; "" is the probed module itself.
        kind: its class.
        lowered: with weights, inputs and computation in the low dtype.
        kept: relative difference with only its inputs rounded: what is left of it as an island.
        note: why it does not run in the low dtype; empty where it does.
    """

    module: str
    kind: str
    lowered: Difference
    kept: float
    note: str


class PrecisionReport(NamedTuple):
    """What `probe_precision` finds; printed, it is a table.

    Attributes:
        modules: worst first.
        whole: the probed module's output with everything lowered.
        keep_fp32: patterns for `SelectivePrecision`.
        dtype: the low one.
    """

    modules: list[ProbedModule]
    whole: Difference
    keep_fp32: list[str]
    dtype: torch.dtype

    def __str__(self) -> str:
        lines = [f"{'largest':>10}{'mean':>10}{'relative':>10}{'kept':>10}  module"]
        whole = ProbedModule("everything together", "", self.whole, float("nan"), "")
        for row in [*self.modules, whole]:
            numbers = "".join(f"{number:10.2g}" for number in (*row.lowered, row.kept))
            name = row.module or f"({row.kind} itself)"
            lines.append(f"{numbers}  {name}{f': {row.note}' if row.note else ''}")
        return "\n".join([*lines, f"keep_fp32={self.keep_fp32}"])


LOST = Difference(float("inf"), float("inf"), float("inf"))


def difference(expected: Any, found: Any) -> Difference:
    """Over all floats of two outputs of one structure."""
    pairs = [
        (one.double().flatten(), other.double().flatten())
        for one, other in zip(tensors(expected), tensors(found), strict=True)
        if one.is_floating_point()
    ]
    if not sum(one.numel() for one, _ in pairs):
        return Difference(0.0, 0.0, 0.0)
    one, other = (torch.cat(side) for side in zip(*pairs, strict=True))
    apart = torch.where(one == other, 0.0, (one - other).abs())  # equal infinities are equal
    if not bool(apart.isfinite().all()):
        return LOST
    size = float(one[one.isfinite()].norm())
    relative = float(apart.norm()) / size if size else float("inf") if bool(apart.any()) else 0.0
    return Difference(float(apart.max()), float(apart.mean()), relative)
