"""Which rows of one file belong to which split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


def check_split(
    split: str | None, shares: Mapping[str, float] | None, split_column: str | None
) -> None:
    """Refuse a split that nothing defines, or two things do.

    Raises:
        ValueError: so it is, or the shares are none.
    """
    if shares is not None and split_column is not None:
        raise ValueError(
            f"shares={dict(shares)} and split_column={split_column!r}: choose one of the two."
        )
    if (split is None) != (shares is None and split_column is None):
        raise ValueError(
            f"split={split!r} with shares={shares}, split_column={split_column!r}; expected "
            "a split and one of the two, or none of the three for all rows."
        )
    if shares is None:
        return
    if split not in shares:
        raise ValueError(f"split={split!r}; shares has {', '.join(shares)}.")
    if any(share < 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"shares={dict(shares)}; expected shares >= 0 that sum to 1.")


def rows_by_column(names: Sequence[str | None], split: str) -> Rows:
    """Rows that name the split.

    Raises:
        ValueError: there is none.
    """
    rows = np.flatnonzero([name == split for name in names])
    if not len(rows):
        found = sorted({str(name) for name in names})
        raise ValueError(f"No row of split {split!r}; the column says {', '.join(found[:10])}.")
    return rows.astype(np.int64)


def rows_by_share(
    digests: Sequence[Sequence[str]], shares: Mapping[str, float], split: str
) -> Rows:
    """Rows that fall to a split by what their pictures are, the same in every run and on any rank.

    Rows that share a picture, directly or through other rows, stay together, so that no picture
    lies in two splits. Where such a group falls is read off a hash of the smallest sha256 of its
    pictures, a number that is evenly spread: shares are met on average, not to the row, and rows
    that are added later leave the others where they are, unless they join two groups.

    Args:
        digests: for each row the sha256 of its pictures, in hex.
        shares: split -> share of the groups; they sum to 1.
        split: the one that is asked for.

    Raises:
        ValueError: no row falls to it.
    """
    groups = _smallest_connected(digests)
    places = np.array([_place(group) for group in groups])
    names = list(shares)
    bounds = np.cumsum([shares[name] for name in names])[:-1]
    rows = np.flatnonzero(np.searchsorted(bounds, places, side="right") == names.index(split))
    if not len(rows):
        raise ValueError(
            f"Of {len(groups)} rows with {len(set(groups))} different pictures none falls to "
            f"{split!r} ({shares[split]:.0%}). Raise its share, or split by file or column."
        )
    return rows.astype(np.int64)


def _place(group: str) -> float:
    """A number in [0, 1); hashed once more, since the smallest of several is seldom a large one."""
    return int(sha256(group.encode()).hexdigest()[:13], 16) / 16**13  # 52 bits: exact


def _smallest_connected(keys_of_rows: Sequence[Sequence[str]]) -> list[str]:
    """For each row the smallest key among all that it is connected with by shared keys."""
    parents: dict[str, str] = {}

    def root(key: str) -> str:
        parents.setdefault(key, key)
        while parents[key] != key:
            parents[key] = parents[parents[key]]  # halves the way for whoever comes next
            key = parents[key]
        return key

    for keys in keys_of_rows:
        roots = [root(key) for key in keys]
        for one in roots:
            parents[one] = min(roots)
    return [root(keys[0]) for keys in keys_of_rows]
