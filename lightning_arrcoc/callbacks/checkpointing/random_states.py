"""The states of all random generators, in tensors and plain types."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def rng_states() -> dict[str, Any]:
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
