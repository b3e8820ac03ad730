"""Which parts of a module lose too much in 16 bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_arrcoc.plugins.casting import HALVES, cast, tensors
from lightning_arrcoc.plugins.islands import apply
from lightning_arrcoc.plugins.precision_report import (
    LOST,
    Difference,
    PrecisionReport,
    ProbedModule,
    difference,
)


def probe_precision(
    module: nn.Module,
    *inputs: Any,
    dtype: torch.dtype = torch.bfloat16,
    tolerance: float = 0.01,
    **named_inputs: Any,
) -> PrecisionReport:
    """Measure what low precision does to each submodule by itself.

    Each is given its fp32 inputs, rounded, and the modules that it calls answer as in fp32. So a
    difference is counted where it is made, and a sum over a deep model does not hide it. What a
    module keeps in fp32 by itself stays so. All of it happens on two copies, in eval mode and
    without gradients. A cache that a module fills would be filled several times: turn it off.

    Args:
        module: what to probe, of any dtype; its weights count as exact.
        *inputs: of its `forward`.
        dtype: the low one.
        tolerance: relative difference from which a module is recommended for `keep_fp32`.
        **named_inputs: likewise.

    Raises:
        ValueError: `dtype` is no 16-bit float, `tolerance` is not positive, or no float comes out.
    """
    if dtype not in HALVES:
        raise ValueError(f"dtype={dtype}; expected one of {', '.join(map(str, HALVES))}.")
    if not tolerance > 0:
        raise ValueError(f"tolerance={tolerance}; expected a positive relative difference.")
    exact, low = deepcopy(module).eval(), deepcopy(module).eval()
    apply(exact, lambda tensor: tensor.float() if tensor.is_floating_point() else tensor)
    low.to(dtype)
    with torch.no_grad(), torch.autocast(_device_type(module), enabled=False):
        probe = _Probe(exact, low, dtype)
        inputs, named_inputs = _in_fp32(inputs), _in_fp32(named_inputs)
        with probe.listening():
            expected = exact(*inputs, **named_inputs)
        whole, _ = probe.lowered(low, inputs, named_inputs, expected)
    rows = [_worst(found) for found in probe.found.values()]
    rows.sort(key=lambda row: row.lowered.relative, reverse=True)
    if not any(True for tensor in tensors(expected) if tensor.is_floating_point()):
        raise ValueError(
            f"{type(module).__name__} returned no floats; there is nothing to compare."
        )
    return PrecisionReport(rows, whole, _recommended(rows, tolerance), dtype)


class _Call(NamedTuple):
    """A module's call under way.

    Attributes:
        inputs, named_inputs: rounded, and so copies: the module may change its own.
        answers: the modules it has called so far, in order, with what they returned.
    """

    inputs: Any
    named_inputs: Any
    answers: list[tuple[nn.Module, Any]]


class _Probe:
    """Listens to a module in fp32, and repeats each call in the low dtype."""

    def __init__(self, exact: nn.Module, low: nn.Module, dtype: torch.dtype) -> None:
        self.names = {id(part): name for name, part in exact.named_modules()}
        self.twins = dict(zip(map(id, exact.modules()), low.modules(), strict=True))
        self.exact, self.dtype = exact, dtype
        self.under_way: list[_Call] = []
        self.found: dict[str, list[ProbedModule]] = {}
        self.is_repeating = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        handles = []
        for part in self.exact.modules():
            handles.append(part.register_forward_pre_hook(self._begin, with_kwargs=True))
            handles.append(part.register_forward_hook(self._end, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self, part: nn.Module, inputs: Any, named_inputs: Any) -> None:
        if not self.is_repeating:
            rounded = self._rounded(inputs), self._rounded(named_inputs)
            self.under_way.append(_Call(*rounded, []))

    def _end(self, part: nn.Module, inputs: Any, named_inputs: Any, output: Any) -> None:
        if self.is_repeating:
            return
        call = self.under_way.pop()
        if self.under_way:
            self.under_way[-1].answers.append((part, output))
        self.is_repeating = True
        try:
            with self._answering(call.answers):
                found, note = self.lowered(
                    self.twins[id(part)], call.inputs, call.named_inputs, output
                )
            given = _in_fp32(call.inputs), _in_fp32(call.named_inputs)
            kept = difference(output, part(*given[0], **given[1])).relative
        finally:
            self.is_repeating = False
        name = self.names[id(part)]
        row = ProbedModule(name, type(part).__name__, found, kept, note)
        self.found.setdefault(name, []).append(row)

    def lowered(
        self, low: nn.Module, inputs: Any, named_inputs: Any, expected: Any
    ) -> tuple[Difference, str]:
        """How far a module in the low dtype is from what is expected, or why it does not run."""
        inputs, named_inputs = self._rounded(inputs), self._rounded(named_inputs)
        if _stays_exact(low, self.dtype):  # so whoever calls it raises what it is given
            inputs, named_inputs = _in_fp32(inputs), _in_fp32(named_inputs)
        default = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)  # as in a run with bf16-true
        try:
            output = low(*inputs, **named_inputs)
        except (RuntimeError, TypeError, NotImplementedError) as error:
            return LOST, str(error).splitlines()[0] if str(error) else type(error).__name__
        finally:
            torch.set_default_dtype(default)
        return difference(expected, output), ""

    @contextmanager
    def _answering(self, answers: Sequence[tuple[nn.Module, Any]]) -> Iterator[None]:
        """Have the twins of called modules answer what those did, in their order."""
        queues: dict[int, list[Any]] = {}
        for part, output in answers:
            queues.setdefault(id(part), []).append(self._rounded(output))
        twins = [self.twins[part] for part in queues]
        before = [vars(twin).get("forward") for twin in twins]
        for twin, queue in zip(twins, queues.values(), strict=True):
            twin.forward = _replay(queue, twin.forward)
        try:
            yield
        finally:
            for twin, own in zip(twins, before, strict=True):
                del twin.forward
                if own is not None:
                    twin.forward = own

    def _rounded(self, tree: Any) -> Any:
        return cast(tree, lambda t: t.to(self.dtype, copy=True) if t.is_floating_point() else t)


def _replay(queue: list[Any], otherwise: Any) -> Any:
    def forward(*inputs: Any, **named_inputs: Any) -> Any:
        return queue.pop(0) if queue else otherwise(*inputs, **named_inputs)

    return forward


def _worst(rows: list[ProbedModule]) -> ProbedModule:
    """A module that is called several times is as good as at its worst."""
    return max(rows, key=lambda row: row.lowered.relative)


def _recommended(rows: Sequence[ProbedModule], tolerance: float) -> list[str]:
    """Modules beyond the tolerance, without those inside another one."""
    beyond = [row for row in rows if row.lowered.relative > tolerance]
    names = {row.module for row in beyond}
    within = {
        name: [n for n in names if n.startswith(f"{name}." if name else "")] for name in names
    }
    covered = {inner for name, inners in within.items() for inner in inners if inner != name}
    outermost = [row for row in beyond if row.module not in covered]
    return [f"*.{row.module}" if row.module else row.kind for row in outermost]


def _in_fp32(tree: Any) -> Any:
    return cast(tree, lambda t: t.float() if t.is_floating_point() else t)


def _stays_exact(low: nn.Module, dtype: torch.dtype) -> bool:
    """Whether a module's weights were not lowered with the rest: it overrides how it is cast."""
    floats = [weight for weight in low.parameters() if weight.is_floating_point()]
    return bool(floats) and all(weight.dtype is not dtype for weight in floats)


def _device_type(module: nn.Module) -> str:
    tensor: Tensor | None = next(iter([*module.parameters(), *module.buffers()]), None)
    return "cpu" if tensor is None else tensor.device.type
