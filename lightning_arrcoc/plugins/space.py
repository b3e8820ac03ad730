"""Whether a checkpoint fits on the disk, before gigabytes are written."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import torch

MARGIN_BYTES = 1 << 20  # Chosen by us: names, pickled structure and manifest beside the tensors


def tensor_bytes(value: Any) -> int:
    """Bytes of the memory behind all tensors in nested containers, shared ones once."""
    storages: dict[int, int] = {}

    def visit(part: Any) -> None:
        if isinstance(part, torch.Tensor):
            if type(part) in (torch.Tensor, torch.nn.Parameter) and part.layout == torch.strided:
                storage = part.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(part, dict):
            for inner in part.values():
                visit(inner)
        elif isinstance(part, list | tuple):
            for inner in part:
                visit(inner)

    visit(value)
    return sum(storages.values())


def refuse_full_disk(needed: int, path: str) -> None:
    """Find out whether so many bytes are free where a file is to go.

    Raises:
        OSError: ENOSPC.
    """
    folder = Path(path).absolute().parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"No space left: a checkpoint of {needed / 2**20:.0f} MiB is to be saved beside the "
            f"last one and {free / 2**20:.0f} MiB are free. Make room, or save elsewhere",
            path,
        )
