"""A batch in smaller parts whose losses add up to its own."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

IGNORED = -100
"""Source: `torch.nn.functional.cross_entropy`'s `ignore_index`."""

Reduction = Literal["mean", "sum", "tokens"]
REDUCTIONS = ("mean", "sum", "tokens")


class Part(NamedTuple):
    """Some samples of a batch.

    Attributes:
        batch: as the whole, but for its length.
        share: by which its loss counts in that of the whole.
    """

    batch: Any
    share: float


class CannotSplitError(ValueError):
    """A batch that does not say what its samples are."""


def split(
    batch: Any, most: int, reduction: Reduction = "mean", usual: int | None = None
) -> list[Part]:
    """Cut a batch into parts of at most so many samples, as even as can be, in order.

    Tensors are cut along their first dimension, which all of them must share; lists and tuples of
    as many things that are no tensors (questions, names, dictionaries, a tensor a sample) are cut
    as well. Tensors without a dimension, single numbers and texts belong to every part.

    Args:
        batch: tensors in mappings, lists, tuples, named tuples or dataclasses.
        most: samples in a part.
        reduction: how the loss is made of those of samples: their "mean", their "sum", or the mean
            over "tokens": over entries of `labels` that are not -100, the first of each row left
            out, as causal language models of transformers take it.
        usual: samples that the loader puts in a batch, for batches that do not say it: two tensors
            of one type may be input and target, or a picture each.

    Raises:
        CannotSplitError: it is not sure what the samples are, or there are no `labels` to count.
    """
    total = samples(batch, usual)
    parts = -(-total // most)
    bounds = [round(total * place / parts) for place in range(parts + 1)]
    cut = [_cut(batch, total, start, end) for start, end in pairwise(bounds)]
    if reduction == "sum":
        return [Part(part, 1.0) for part in cut]
    if reduction == "tokens":
        counts = [_tokens(part) for part in cut]
    else:
        counts = [end - start for start, end in pairwise(bounds)]
    whole = sum(counts)
    return [
        Part(part, count / whole if whole else 0.0) for part, count in zip(cut, counts, strict=True)
    ]


def samples(batch: Any, usual: int | None = None) -> int:
    """How many there are; as many as is usual where the batch does not say.

    Raises:
        CannotSplitError: nothing says so, or two say different things.
    """
    lengths: dict[int, str] = {}
    for name, length in _lengths(batch, ""):
        lengths.setdefault(length, name or "the batch")
    if len(lengths) > 1:
        told = ", ".join(f"{name} has {length}" for length, name in lengths.items())
        raise CannotSplitError(f"the first dimensions differ: {told}")
    if not lengths and usual is not None and any(_alike(batch, "")):
        lengths[usual] = "the loader"
    if not lengths or 0 in lengths:
        raise CannotSplitError(f"a {type(batch).__name__} with no tensor that has samples")
    total = next(iter(lengths))
    for name, row in _alike(batch, ""):
        as_parts, as_samples = all(len(one) == total for one in row), len(row) == total
        if as_parts == as_samples:
            either = "may be a sample each or not" if as_parts else "are neither"
            raise CannotSplitError(
                f"the {len(row)} tensors of {name or 'the batch'} {either}, among {total} samples"
            )
    return total


def has_ignored_labels(batch: Any) -> bool:
    """Whether a mean over tokens is meant, by all appearances."""
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    return isinstance(labels, Tensor) and labels.ndim > 1 and bool((labels == IGNORED).any())


def _children(node: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        yield from ((f"{name}[{key!r}]", value) for key, value in node.items())
    elif is_dataclass(node) and not isinstance(node, type):
        yield from ((f"{name}.{one.name}", getattr(node, one.name)) for one in fields(node))
    elif isinstance(node, list | tuple):
        yield from ((f"{name}[{place}]", value) for place, value in enumerate(node))


def _is_row_of_alike(node: Any) -> bool:
    """Several tensors that could be a sample each, or parts of the batch: nobody can tell alone."""
    return (
        isinstance(node, list | tuple)
        and len(node) > 1
        and all(isinstance(one, Tensor) and one.ndim > 0 for one in node)
        and len({(one.ndim, one.dtype) for one in node}) == 1
    )


def _is_samples(node: Any) -> bool:
    """A sequence of things a sample each: texts, numbers, dictionaries."""
    if not isinstance(node, list | tuple) or not node or hasattr(node, "_fields"):
        return False
    return not any(isinstance(one, Tensor | list | tuple) for one in node)


def _lengths(node: Any, name: str) -> Iterator[tuple[str, int]]:
    """What surely says how many samples there are."""
    if isinstance(node, Tensor):
        if node.ndim:
            yield name, len(node)
    elif _is_samples(node):
        yield name, len(node)
    elif not _is_row_of_alike(node):
        for child, value in _children(node, name):
            yield from _lengths(value, child)


def _alike(node: Any, name: str) -> Iterator[tuple[str, Any]]:
    if _is_row_of_alike(node):
        yield name, node
    elif not _is_samples(node):
        for child, value in _children(node, name):
            yield from _alike(value, child)


def _cut(node: Any, total: int, start: int, end: int) -> Any:
    """The samples from start to end; tensors are views."""
    if isinstance(node, Tensor):
        return node[start:end] if node.ndim else node
    if _is_samples(node) or (_is_row_of_alike(node) and len(node) == total):
        return node[start:end]

    def cut(value: Any) -> Any:
        return _cut(value, total, start, end)

    if isinstance(node, Mapping):
        made = copy.copy(node)  # an encoding of transformers keeps its other attributes
        for key, value in node.items():
            made[key] = cut(value)  # type: ignore[index]
        return made
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return type(node)(*(cut(value) for value in node))
    if isinstance(node, list | tuple):
        return type(node)(cut(value) for value in node)
    if is_dataclass(node) and not isinstance(node, type):
        record = copy.copy(node)
        for one in fields(node):
            object.__setattr__(record, one.name, cut(getattr(node, one.name)))  # also a frozen one
        return record
    return node


def _tokens(part: Any) -> int:
    labels = part.get("labels") if isinstance(part, Mapping) else None
    if not isinstance(labels, Tensor) or labels.ndim < 2:
        raise CannotSplitError("reduction='tokens' counts batch['labels'], which is not there")
    return int(torch.count_nonzero(labels[:, 1:] != IGNORED))
