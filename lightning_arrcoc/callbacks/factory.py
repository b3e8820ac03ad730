"""What the entry point ``lightning.pytorch.callbacks_factory`` adds to every Trainer."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch import Callback

VARIABLE = "LIGHTNING_ARRCOC_CALLBACKS"
CHOICES = ("safe",)


def wanted() -> list[Callback]:
    """Nothing, and nothing is imported for it, unless the variable names a set.

    Raises:
        ValueError: it names one that there is not.
    """
    word = os.environ.get(VARIABLE, "")
    if not word:
        return []
    if word not in CHOICES:
        raise ValueError(
            f"{VARIABLE}={word!r}; expected {', '.join(CHOICES)}, or leave it unset for none."
        )
    from lightning_arrcoc.callbacks.safe_set import SafeSet

    return [SafeSet()]
