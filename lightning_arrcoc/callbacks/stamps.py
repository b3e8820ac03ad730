"""What a checkpoint tells about the run it comes from, in tensors and plain types."""

from __future__ import annotations

import os
import platform
import random
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

Plain = dict[str, Any]


def describe_run() -> Plain:
    """What does not change while a run lasts: versions, host, commit."""
    return {
        "host": platform.node(),
        "git": git_state(),
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "lightning": str(pl.__version__),
            "numpy": str(np.__version__),
        },
    }


def now() -> str:
    """UTC, to be read by people; nothing is ordered by it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def git_state() -> Plain | None:
    """Commit of the working folder, and whether files differ from it; None outside git."""

    def ask(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], capture_output=True, text=True, timeout=10, check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )  # fmt: skip
        return done.stdout.strip()

    try:
        return {
            "commit": ask("rev-parse", "HEAD"),
            "dirty": bool(ask("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None


def metrics_of(trainer: pl.Trainer) -> dict[str, float]:
    """The latest of every logged metric."""
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


# ---------------------------------------------------------------------------- random numbers


def rng_states() -> Plain:
    """The state of every generator that a step may draw from."""
    name, words, place, has_gauss, gauss = np.random.get_state()
    version, numbers, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(name), torch.from_numpy(np.asarray(words, dtype=np.int64)), int(place),
                  int(has_gauss), float(gauss)],
        "python": [version, torch.tensor(numbers, dtype=torch.int64), gauss_next],
    }  # fmt: skip


def restore_rng(states: Mapping[str, Any]) -> None:
    """Go on drawing where `rng_states` was asked."""
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])
    name, words, place, has_gauss, gauss = states["numpy"]
    np.random.set_state((name, words.numpy().astype(np.uint32), place, has_gauss, gauss))
    version, numbers, gauss_next = states["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss_next))


# ------------------------------------------------------------------------------ architecture


def architecture_of(module: pl.LightningModule) -> Plain:
    """The module's class, what it says of itself, and its tensors' shapes by name.

    A module may offer ``architecture() -> dict`` of plain values, for what shapes do not tell.
    """
    own: Plain = getattr(module, "architecture", dict)()
    named = [*module.named_parameters(), *module.named_buffers()]
    sharded = any("_flat_param" in name for name, _ in named)  # FSDP's pieces, another on each rank
    return {
        "class": f"{type(module).__module__}.{type(module).__qualname__}",
        "own": own,
        "shapes": {} if sharded else {name: list(value.shape) for name, value in named},
    }


def architecture_differences(saved: Mapping[str, Any], here: Mapping[str, Any]) -> list[list[str]]:
    """Rows of name, value in the checkpoint, value here. A class may have moved; it is no row."""
    rows = []
    for kind in ("own", "shapes"):
        before, after = _flat(saved.get(kind, {})), _flat(here.get(kind, {}))
        if kind == "shapes" and (not before or not after):
            continue
        rows += [
            [name, before.get(name, "absent"), after.get(name, "absent")]
            for name in {**before, **after}
            if before.get(name) != after.get(name)
        ]
    return rows


def _flat(value: Any, name: str = "") -> dict[str, str]:
    if isinstance(value, Mapping):
        found: dict[str, str] = {}
        for key, part in value.items():
            found |= _flat(part, f"{name}.{key}" if name else str(key))
        return found
    return {name: str(list(value) if isinstance(value, tuple) else value)}


def as_table(rows: list[list[str]], most: int = 20) -> str:
    """Rows under a heading, columns aligned."""
    shown = [["", "checkpoint", "here"], *rows[:most]]
    widths = [max(len(row[place]) for row in shown) for place in range(3)]
    lines = [
        "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()
        for row in shown
    ]
    if len(rows) > most:
        lines.append(f"and {len(rows) - most} more")
    return "\n".join(lines)
