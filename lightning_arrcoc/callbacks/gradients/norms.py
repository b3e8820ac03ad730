"""Norms of many gradients with few calls, and nothing read from the device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors
from torch.optim import Optimizer

from lightning_arrcoc.callbacks.gradients.sharding import Copies, local

# On a CPU a norm costs one to two microseconds a call and a third of a nanosecond a number: below
# this many numbers it is cheaper to lay gradients side by side first, a piece at a time.
SMALL, PIECE = 1024, 65536
OTHER = "other"


# What wrappers add to names.
WRAPPERS = ("_fsdp_wrapped_module.", "_orig_mod.", "_checkpoint_wrapped_module.")


class Measured(NamedTuple):
    """Norms of one moment, on the device; or in plain numbers, where that is said.

    Attributes:
        total: over all gradients, a scalar or a number.
        groups: by group, in the order of `GradientNorms.group_names`.
        each: by gradient, or where they are small by some of them together, of this process.
        extra: what was handed in, summed over the processes where gradients are spread over them.
    """

    total: Any
    groups: Any
    each: Tensor
    extra: Tensor


class _Layout(NamedTuple):
    """Which gradients there are, and how they are taken together."""

    present: list[bool]
    calls: list[list[list[int]]]  # a call of `norms_of` each: its pieces, the gradients of a piece
    groups: Tensor  # of each piece
    numbers: list[int]  # the same, to count with
    weights: Tensor | None  # of each piece: one over the processes that hold a copy


def norms_of(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Of each its own, in fp32 at least: a norm of fp16 numbers overflows in fp16.

    torch offers this to itself alone: its own clipping (`torch.nn.utils.clip_grad_norm_`) and every
    optimizer are built on the `_foreach` functions. The public `get_total_norm` makes the same call
    and forgets the single norms, which tell groups apart and name what is not finite.
    """
    half = tensors[0].dtype in (torch.float16, torch.bfloat16)
    found = torch._foreach_norm(list(tensors), 2, dtype=torch.float32 if half else None)
    return list(found)


class GradientNorms:
    """Measures the gradients of some parameters, total and by group.

    Args:
        named: name -> parameter.
        groups: how many leading parts of a name make a group, 0 for no groups; or globs, of which
            the first that matches counts.
        copies: how gradients are spread over processes; None where each process has all of them.
    """

    def __init__(
        self,
        named: Mapping[str, Tensor],
        groups: int | Sequence[str] = 1,
        copies: Copies | None = None,
    ) -> None:
        self.names, self.parameters = list(named), list(named.values())
        self.copies = copies
        found = [group_of(name, groups) for name in self.names]
        self.group_names = sorted({name for name in found if name})
        self._group = [self.group_names.index(name) if name else -1 for name in found]
        self._layout: _Layout | None = None
        self.device = local(self.parameters[0].detach()).device
        self.wide = wide(self.device)
        self._no_extra = torch.zeros(0, dtype=self.wide, device=self.device)

    @torch.no_grad()
    def measure(self, extra: Tensor | None = None) -> Measured | None:
        """All norms; None where there is no gradient at all, on any process alike.

        Args:
            extra: numbers ``(n,)``, float64, that travel with the norms where these do.
        """
        measured = self._measure_each()
        if measured is None:
            return None
        each, layout = measured
        # Squares of fp32 numbers fit into float64, which Apple's devices lack.
        squares = each.to(self.wide).square()
        if layout.weights is not None:
            squares *= layout.weights
        # Adding by index may differ in its last bit from process to process on a GPU; a sum does
        # not, and what is decided on is the sum. The last group is that of the ungrouped.
        sums = squares.new_zeros(len(self.group_names) + 1).index_add_(0, layout.groups, squares)
        total, groups = squares.sum(), sums[:-1]
        handed = self._no_extra if extra is None else extra
        if self.copies is not None:
            message = torch.cat([total.reshape(1), groups, handed])
            dist.all_reduce(message)
            total, groups, handed = message.tensor_split([1, len(sums)])
            total = total.squeeze(0)
        return Measured(total.sqrt(), groups.sqrt(), each, handed)

    @torch.no_grad()
    def measure_on_host(self) -> Measured | None:
        """As `measure`, in plain numbers, of one process whose gradients lie on the CPU."""
        measured = self._measure_each()
        if measured is None:
            return None
        each, layout = measured
        squares = [norm * norm for norm in each.tolist()]
        sums = [0.0] * (len(self.group_names) + 1)
        for group, square in zip(layout.numbers, squares, strict=True):
            sums[group] += square
        return Measured(math.sqrt(sum(sums)), [*map(math.sqrt, sums[:-1])], each, self._no_extra)

    def _measure_each(self) -> tuple[Tensor, _Layout] | None:
        """`Measured.each`; None where there is no gradient at all, on any process alike."""
        gradients = [parameter.grad for parameter in self.parameters]
        present = [gradient is not None for gradient in gradients]
        if self.copies is None and not any(present):
            return None
        if self._layout is None or present != self._layout.present:
            self._layout = self._lay_out(gradients, present)
        layout = self._layout
        found: list[Tensor] = []
        for call in layout.calls:
            found += norms_of([_piece([gradients[i] for i in piece]) for piece in call])
        if len(layout.calls) > 1:  # several devices or types
            queued = self.device.type != "cpu"  # which would read numbers before they came
            found = [norm.to(self.device, self.wide, non_blocking=queued) for norm in found]
        return torch.stack(found) if found else self._no_extra, layout

    def nonfinite_names(self, each: Tensor) -> list[str]:
        """Parameters whose gradients are not finite, from `Measured.each`; waits for the device.

        Of gradients that were measured together the ones at fault are told while they are there.
        """
        if self._layout is None:
            return []
        pieces = [piece for call in self._layout.calls for piece in call]
        if len(pieces) != len(each):
            return []  # gradients came or went since
        bad = [i for piece, ok in zip(pieces, each.isfinite().tolist(), strict=True) if not ok
               for i in piece if len(piece) == 1 or self._is_bad(i)]  # fmt: skip
        return [self.names[i] for i in sorted(bad)]

    def _is_bad(self, index: int) -> bool:
        gradient = self.parameters[index].grad
        return gradient is not None and not bool(gradient.isfinite().all())

    def _lay_out(self, gradients: Sequence[Tensor | None], present: list[bool]) -> _Layout:
        """Calls by device and dtype; on a CPU the small ones of a group in one piece."""
        calls: dict[Any, list[list[int]]] = {}
        filling: dict[Any, tuple[list[int], int]] = {}
        for index, gradient in enumerate(gradients):
            if gradient is None:
                continue
            values = local(gradient)
            kind = (values.device, values.dtype)
            pieces = calls.setdefault(kind, [])
            weight = self._weight(index)
            place = (*kind, self._group[index], weight)
            small = values.device.type == "cpu" and values.numel() <= SMALL
            if not small or gradient.is_sparse:
                pieces.append([index])
                continue
            piece, held = filling.get(place, ([], PIECE))
            if held + values.numel() > PIECE:
                piece, held = [], 0
                pieces.append(piece)
            piece.append(index)
            filling[place] = (piece, held + values.numel())
        flat = [piece for pieces in calls.values() for piece in pieces]
        device = self.device
        weights = None
        if self.copies is not None:
            shares = [self._weight(piece[0]) for piece in flat]
            weights = torch.tensor(shares, dtype=wide(device), device=device)
        numbers = [self._group[piece[0]] % (len(self.group_names) + 1) for piece in flat]
        groups = torch.tensor(numbers, dtype=torch.int64, device=device)
        return _Layout(present, list(calls.values()), groups, numbers, weights)

    def _weight(self, index: int) -> float:
        return 1.0 if self.copies is None else 1 / self.copies(self.parameters[index])


def _piece(gradients: Sequence[Any]) -> Tensor:
    """One gradient as it is, or several as one flat tensor."""
    if len(gradients) == 1:
        return local(gradients[0])
    # What DDP's own buckets were made with; a loop in Python costs more than it saves.
    parts = [local(gradient) for gradient in gradients]
    flat: Tensor = _flatten_dense_tensors(parts)  # type: ignore[no-untyped-call]
    return flat


def named_parameters(module: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """An optimizer's parameters by their names in the module, without what wrappers add."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    named = {}
    for number, parameter in enumerate(parameters_of(optimizer)):
        name = names.get(id(parameter), f"unnamed.{number}")
        for wrapper in WRAPPERS:
            name = name.replace(wrapper, "")
        named[name] = parameter
    return named


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    """Of all its groups, in order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def group_of(name: str, groups: int | Sequence[str]) -> str:
    """The group of a parameter; an empty string for none."""
    if isinstance(groups, int):
        parts = name.split(".")
        return ".".join(parts[: min(groups, max(1, len(parts) - 1))]) if groups else ""
    return next((pattern for pattern in groups if fnmatchcase(name, pattern)), OTHER)


def wide(device: torch.device) -> torch.dtype:
    """The widest floating point numbers of a device."""
    return torch.float32 if device.type == "mps" else torch.float64
