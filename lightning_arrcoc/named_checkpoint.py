"""A checkpoint named on the command line: there, whole, and made by fit."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

import torch

from lightning_arrcoc.callbacks.checkpointing.last_verified import find_last_verified
from lightning_arrcoc.callbacks.checkpointing.resuming import LAST_VERIFIED
from lightning_arrcoc.plugins.verifying import verify
from lightning_arrcoc.vlm.exported_files import CONFIG as SAVED

MEASURED = {"state_dict", "pytorch-lightning_version"}  # keys of a checkpoint
RESUMED = MEASURED | {"optimizer_states", "lr_schedulers", "loops"}


def existing_checkpoint(path: str | None, keys: Set[str] = MEASURED) -> str:
    """The path itself, once it is sure that a checkpoint with these keys lies there.

    Raises:
        ValueError: none was named, it is a URL, or the file is no checkpoint.
        FileNotFoundError: there is no such file.
    """
    if path is None:
        raise ValueError(
            "No checkpoint was named; expected ckpt=outputs/fit/.../checkpoints/last.ckpt, as "
            "`python -m lightning_arrcoc fit` writes it."
        )
    if "://" in path:
        raise ValueError(f"{path!r} is a URL; download it first and name the file.")
    if Path(path).name == LAST_VERIFIED:
        path = find_last_verified(str(Path(path).parent)) or path
    if not Path(path).is_file():
        raise FileNotFoundError(f"No checkpoint at {path!r}; expected a file made by fit.")
    verify(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        # torch's own words advise to load it unsafely
        unsafe = "weights_only" in str(error)
        reason = (
            "it holds objects" if unsafe else str(error).splitlines()[0] if str(error) else "empty"
        )
        raise ValueError(
            f"{path!r} is damaged or no checkpoint ({reason}). Choose another, for instance "
            "last.ckpt of the same run."
        ) from error
    missing = keys - content.keys() if isinstance(content, dict) else keys
    if missing:
        raise ValueError(
            f"{path!r} lacks {', '.join(sorted(missing))}; expected a checkpoint made by fit"
            f"{', with all it needs to go on' if keys == RESUMED else ''}."
        )
    return path


def trained_source(path: str | None) -> str:
    """A checkpoint as for `existing_checkpoint`, or a folder that export format=hf wrote."""
    if path is not None and (Path(path) / SAVED).is_file():
        return path
    return existing_checkpoint(path)
