"""A metric that is waited for in vain, said so that a slip is seen."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(parameter: str, name: str, logged: Iterable[str]) -> str:
    """What there is instead, the most similar first.

    Args:
        parameter: that named it.
        name: as it was asked for.
        logged: the names of what was measured.
    """
    known = sorted(logged)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    hint = f"Nearest: {parameter}={near[0]!r}. " if near else ""
    return f"{hint}There are: {', '.join(known) or 'none'}."
