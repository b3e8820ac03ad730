"""How much a batch holds: samples, tokens, arithmetic."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

Count = int | float | Tensor
TOKENS = ("text_tokens", "visual_tokens")
COUNTS = ("samples", "tokens", *TOKENS, "visual_tokens_saved", "flops")


def counts_of(
    module: pl.LightningModule,
    batch: Any,
    samples: Callable[[Any], Count] | None = None,
    tokens: Callable[[Any], Count] | None = None,
) -> dict[str, Count]:
    """What is known of a batch that was trained on, by the names of `COUNTS`, without waiting.

    The callables have the first word, then ``module.batch_counts(batch)``, then the batch itself:
    the leading dimension of its first tensor, as Lightning has it, and its ``input_ids``.

    Raises:
        ValueError: `batch_counts` tells something else.
    """
    if batch is None:  # a loader may yield it, and Lightning goes on
        return {}
    found: dict[str, Count] = {}
    tell = getattr(module, "batch_counts", None)
    if tell is not None:
        found = {name: value for name, value in tell(batch).items() if value is not None}
        _refuse_unknown(found, module)
    if samples is not None:
        found["samples"] = samples(batch)
    elif "samples" not in found and (size := leading_dimension(batch)) is not None:
        found["samples"] = size
    if tokens is not None:
        found["tokens"] = tokens(batch)
    elif "tokens" not in found:
        parts = [found[name] for name in TOKENS if name in found]
        if parts:
            found["tokens"] = sum(parts[1:], parts[0])
        elif (count := _input_tokens(batch)) is not None:
            found["tokens"] = count
    if "flops" not in found and (flops := _told_flops(module, batch)) is not None:
        found["flops"] = flops
    return found


def leading_dimension(batch: Any) -> int | None:
    """Of the first tensor in a batch of any nesting; None where there is none."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 1
    if is_dataclass(batch) and not isinstance(batch, type):
        batch = [getattr(batch, field.name) for field in fields(batch)]
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, Sequence) and not isinstance(batch, str | bytes):
        return next((n for part in batch if (n := leading_dimension(part)) is not None), None)
    return None


def _input_tokens(batch: Any) -> Count | None:
    """Tokens of a language model's batch, without padding."""
    if not isinstance(batch, Mapping) or not isinstance(batch.get("input_ids"), Tensor):
        return None
    mask = batch.get("attention_mask")
    with torch.no_grad():
        if isinstance(mask, Tensor) and mask.shape == batch["input_ids"].shape:
            return torch.count_nonzero(mask)
    count: int = batch["input_ids"].numel()
    return count


def _told_flops(module: pl.LightningModule, batch: Any) -> Count | None:
    """By `flops_per_batch`, as Lightning's own monitor knows it, or as a method."""
    told: Any = getattr(module, "flops_per_batch", None)
    if callable(told):
        told = told(batch) if inspect.signature(told).parameters else told()
    flops: Count | None = told
    return flops


def _refuse_unknown(found: Mapping[str, Count], module: pl.LightningModule) -> None:
    for name in found:
        if name not in COUNTS:
            near = difflib.get_close_matches(str(name), COUNTS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"{type(module).__name__}.batch_counts tells {name!r}; expected some of "
                f"{', '.join(COUNTS)}.{hint}"
            )
