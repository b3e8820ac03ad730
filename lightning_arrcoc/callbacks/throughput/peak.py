"""What a device could do at most."""

from __future__ import annotations

import warnings

import torch
from lightning.fabric.utilities.throughput import get_available_flops

DTYPES = {"bf16": torch.bfloat16, "16": torch.float16, "32": torch.float32, "64": torch.float64}
"""By the word before the hyphen in Trainer(precision=...)."""


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Floating-point operations a second by Lightning's table; None where it has no entry.

    Args:
        device: one of them.
        precision: as the Trainer calls it.
    """
    dtype = DTYPES.get(precision.split("-")[0])
    if dtype is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is unknown is told with what else is missing
        found = get_available_flops(device, dtype)
    return None if found is None else float(found)
