"""A metric that is waited for in vain, said so that a slip is seen."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(parameter: str, name: str, logged: Iterable[str], similar: float = 0.0) -> str:
    """What there is instead, the most similar first.

    Args:
        parameter: that named it.
        name: as it was asked for.
        logged: the names of what was measured.
        similar: how much one must be to be named; any is, to a name that somebody wrote.
    """
    known = sorted(logged)
    near = difflib.get_close_matches(name, known, n=1, cutoff=similar)
    hint = f"Nearest: {parameter}={near[0]!r}. " if near else ""
    return f"{hint}There are: {', '.join(known) or 'none'}."
