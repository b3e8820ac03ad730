"""What a checkpoint's weights were made for, and whether that is what is here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import lightning.pytorch as pl
import torch

MAY_DIFFER = "may_differ"  # key in what a module says of itself
MOST_ROWS = 60  # Chosen by us: two of the largest sets of channels fill a screen, not more


class ArchitectureError(ValueError):
    """A checkpoint's weights belong to another architecture; a table says in what it differs."""


def architecture_of(module: pl.LightningModule) -> dict[str, Any]:
    """The module's class, what it says of itself, and its tensors' shapes by name.

    A module may offer ``architecture() -> dict`` of plain values, for what shapes do not tell.
    What stands there under ``may_differ`` is told and never compared.
    """
    shapes = {name: list(_shape(value)) for name, value in _kept_tensors(module)}
    return {
        "class": f"{type(module).__module__}.{type(module).__qualname__}",
        "own": getattr(module, "architecture", dict)(),
        "shapes": {} if _is_in_pieces(module) else shapes,
    }


def refuse_other(saved: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Compare two architectures.

    Raises:
        ArchitectureError: they differ.
    """
    rows = differences(saved, here)
    if rows:
        raise ArchitectureError(
            f"The checkpoint has another architecture, nothing was loaded:\n{as_table(rows)}\n"
            "Build the model as it was saved, or take what fits: "
            "AtomicCheckpoint(partial='report')."
        )


def differences(saved: Mapping[str, Any], here: Mapping[str, Any]) -> list[list[str]]:
    """Rows of name, value in the checkpoint, value here.

    What one of them does not tell is not compared, and a class may have moved: it is a row beside
    others only.
    """
    rows = []
    for kind in ("own", "shapes"):
        if not saved.get(kind) or not here.get(kind):
            continue
        before, after = (dict(_flat(told[kind])) for told in (saved, here))
        rows += [
            [name, before.get(name, "absent"), after.get(name, "absent")]
            for name in {**before, **after}
            if before.get(name) != after.get(name)
        ]
    classes = [str(told["class"]) for told in (saved, here) if "class" in told]
    if rows and len(set(classes)) == 2:
        rows.insert(0, ["class", *classes])
    return rows


def as_table(rows: list[list[str]]) -> str:
    """Rows under a heading, columns aligned."""
    shown = [["", "checkpoint", "here"], *rows[:MOST_ROWS]]
    widths = [max(len(row[place]) for row in shown) for place in range(3)]
    lines = [
        "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()
        for row in shown
    ]
    if len(rows) > MOST_ROWS:
        lines.append(f"and {len(rows) - MOST_ROWS} more")
    return "\n".join(lines)


def what_fits(
    weights: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Of a checkpoint's weights those that a model has by name and shape, by the model's names.

    A name may lack its beginning, where only one of the model's ends so: ``encoder.weight`` for
    ``model.encoder.weight``.
    """
    fitting = {}
    for name, value in weights.items():
        ends = [known for known in state if known == name or known.endswith(f".{name}")]
        found = name if name in state else ends[0] if len(ends) == 1 else None
        if found is not None and state[found].shape == value.shape:
            fitting[found] = value
    return fitting


def _is_in_pieces(module: pl.LightningModule) -> bool:
    """Whether FSDP1 keeps a flat piece of each tensor here, another one on each rank."""
    if any(name.endswith("_flat_param") for name, _ in module.named_parameters()):
        return True
    trainer = module._trainer  # the public property raises where there is none
    kinds = type(trainer.strategy).__mro__ if trainer is not None else ()
    return any(kind.__name__ == "FSDPStrategy" for kind in kinds)


def _shape(value: torch.Tensor) -> torch.Size:
    """Of the whole: DeepSpeed's third stage leaves an empty tensor that tells it."""
    shape: torch.Size = getattr(value, "ds_shape", value.shape)
    return shape


def _kept_tensors(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers that a state dict has, asked without one: that may be a collective."""
    passing = {
        f"{where}.{name}" if where else name
        for where, part in module.named_modules()
        for name in part._non_persistent_buffers_set
    }
    yield from module.named_parameters()
    yield from ((name, value) for name, value in module.named_buffers() if name not in passing)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Leaves by dotted names; of a list of names each has a line of its own, with its place."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            if key != MAY_DIFFER:
                yield from _flat(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple) and value and all(isinstance(one, str) for one in value):
        yield from ((f"{name}.{one}", str(place)) for place, one in enumerate(value))
    else:
        yield name, str(list(value) if isinstance(value, tuple) else value)
