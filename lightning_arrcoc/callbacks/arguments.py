"""Arguments of callbacks, checked when they are made."""

from __future__ import annotations

import math
from collections.abc import Sequence


def check_choice(name: str, value: object, known: Sequence[object]) -> None:
    """Raise ValueError unless a word is one of those known."""
    if not any(value is one or (isinstance(value, str) and value == one) for one in known):
        raise ValueError(f"{name}={value!r}; expected one of {', '.join(map(str, known))}.")


def check_counts(least: int, **counts: object) -> None:
    """Raise ValueError unless all are whole numbers that are large enough."""
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}={value!r}; expected a whole number, {least} or more.")


def is_number(value: object) -> bool:
    """Whether it is a number, NaN and booleans apart."""
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
