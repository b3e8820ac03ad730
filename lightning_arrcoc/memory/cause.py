"""Why memory ran out, in one sentence."""

from __future__ import annotations

import re
from typing import NamedTuple

import torch

from lightning_arrcoc.memory.readings import GIB, MIB
from lightning_arrcoc.memory.staircase import Growth

UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
UNUSUAL = 1.5
"""Chosen by us: a batch half as large again as the median of those before stands out."""
LARGE = 0.1
"""Chosen by us: one tensor of a tenth of the device is a thing to look at."""
WORDS = (
    "out of memory",
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


class Shortage(NamedTuple):
    """What was known when an allocation failed; bytes, None where nobody told.

    Attributes:
        asked: for one tensor.
        free: on the device, for anybody.
        capacity: of the device.
        allocated, reserved: by torch, for this process.
        others: taken of the device by other processes.
        phase: forward, backward, optimizer step, validation, ...
        module: whose forward it was, if any was under way.
        samples: of the batch.
        usual_samples: the median of the batches before.
        growth: a staircase seen in the steps before.
    """

    asked: int | None = None
    free: int | None = None
    capacity: int | None = None
    allocated: int = 0
    reserved: int = 0
    others: int | None = None
    phase: str = "forward"
    module: str | None = None
    samples: int | None = None
    usual_samples: float | None = None
    growth: Growth | None = None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is for lack of memory, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in WORDS)


def asked_and_free(message: str) -> tuple[int | None, int | None]:
    """Bytes that torch's own message tells."""
    return (
        _bytes(re.search(r"[Tt]ried to allocate ([\d.]+) ?(\w+)", message))
        or _bytes(re.search(r"you tried to allocate (\d+) (bytes)", message)),
        _bytes(re.search(r"of which ([\d.]+) (\w+) is free", message)),
    )


def likely_cause(found: Shortage) -> str:
    """One sentence; the first that fits of what can be mended more and more dearly."""
    asked = found.asked or 0
    unused = found.reserved - found.allocated
    if found.others and found.others >= max(asked, MIB):
        return (
            f"Other processes hold {_gib(found.others)} of the device; without them it would "
            f"have been enough."
        )
    if asked and unused >= asked:
        return (
            f"Fragmentation: {_gib(unused)} of what torch holds are unused, but in pieces; set "
            "PYTORCH_ALLOC_CONF=expandable_segments:True."
        )
    if found.growth is not None:
        return (
            f"A leak: memory grew by {found.growth.bytes_per_step / MIB:.2f} MiB a step over the "
            f"{found.growth.steps} steps before."
        )
    if found.phase == "optimizer step":
        return (
            "The optimizer: its state, or what it needs for a step, does not fit beside the rest."
        )
    if found.samples and found.usual_samples and found.samples >= UNUSUAL * found.usual_samples:
        return (
            f"The batch: it has {found.samples} samples, where {found.usual_samples:g} are usual."
        )
    if found.module is not None and found.capacity and asked >= LARGE * found.capacity:
        return f"An activation of {found.module}: it asked for {_gib(asked)} in one piece."
    where = f" when it came to {found.module}" if found.module else ""
    held = f"; {_gib(found.allocated)} were held" if found.allocated else ""
    return f"The batch: its activations did not fit in the {found.phase}{where}{held}."


def _bytes(match: re.Match[str] | None) -> int | None:
    return int(float(match[1]) * UNITS[match[2]]) if match and match[2] in UNITS else None


def _gib(count: int) -> str:
    return f"{count / GIB:.2f} GiB"
