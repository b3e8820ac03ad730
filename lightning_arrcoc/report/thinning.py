"""Long curves made short enough to draw, without hiding what they did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

from lightning_arrcoc.report.run import Curve, Numbers

SMOOTHED_FROM = 40  # points; chosen by us: shorter curves are read as they are
SPAN = 25  # of a curve that one smoothed value looks back on; chosen by us, by eye
BLOCKS = 2000  # means that a long curve is smoothed by; more than are drawn


def thin(curve: Curve, low: float, high: float, bins: int) -> Curve:
    """The lowest and the highest value of each of `bins` equal stretches of steps.

    No spike is lost, and no value is made up. Where a resumed run goes back the line is broken, by
    a nan.

    Args:
        low, high: steps that the drawing reaches from and to.
        bins: stretches; at most two points of each are kept.
    """
    return _by_piece(curve, lambda piece: _thin(piece, low, high, bins))


def smooth(curve: Curve) -> Curve | None:
    """A running mean that looks back on a `SPAN`-th of the points, more on the last ones.

    An exponential mean whose start is corrected; of a curve longer than `BLOCKS`, of the means of
    as many equal parts. A value that is not finite stays a gap. None for a short curve.
    """
    if len(curve.values) < SMOOTHED_FROM:
        return None
    with np.errstate(all="ignore"):  # a curve that explodes may overflow; it is shown as it is
        return _by_piece(curve, _smooth)


def _by_piece(curve: Curve, change: Callable[[Curve], Curve]) -> Curve:
    steps: list[Numbers] = []
    values: list[Numbers] = []
    for piece in _pieces(curve):
        if steps:
            steps.append(steps[-1][-1:])
            values.append(np.array([np.nan]))
        changed = change(piece)
        steps.append(changed.steps)
        values.append(changed.values)
    return Curve(np.concatenate(steps), np.concatenate(values)) if steps else curve


def _pieces(curve: Curve) -> Iterator[Curve]:
    """The stretches in which steps do not go back."""
    ends = [*(np.flatnonzero(np.diff(curve.steps) < 0) + 1), len(curve.steps)]
    start = 0
    for end in ends:
        if end > start:
            yield Curve(curve.steps[start:end], curve.values[start:end])
        start = end


def _thin(curve: Curve, low: float, high: float, bins: int) -> Curve:
    if len(curve.steps) <= 2 * bins:
        return curve
    width = (high - low) / bins or 1.0
    bin_of = np.floor((curve.steps - low) / width)
    edges = [0, *(np.flatnonzero(np.diff(bin_of)) + 1), len(bin_of)]
    kept: list[int] = []
    for start, end in pairwise(edges):
        values = curve.values[start:end]
        finite = np.flatnonzero(np.isfinite(values))
        if not len(finite):
            kept.append(start)
            continue
        ends = {finite[np.argmin(values[finite])], finite[np.argmax(values[finite])]}
        kept += sorted(start + int(place) for place in ends)
    return Curve(curve.steps[kept], curve.values[kept])


def _smooth(curve: Curve) -> Curve:
    steps, values = curve
    if len(values) > BLOCKS:
        edges = np.linspace(0, len(values), BLOCKS + 1).astype(int)[:-1]
        counts = np.diff([*edges, len(values)])
        steps = np.add.reduceat(steps, edges) / counts
        values = np.add.reduceat(values, edges) / counts
    share = 2 / (max(1.0, len(values) / SPAN) + 1)
    mean, weight = 0.0, 0.0
    smoothed = np.full(len(values), np.nan)
    for place, value in enumerate(values):
        if np.isfinite(value):
            mean += share * (value - mean)
            weight += share * (1 - weight)
            smoothed[place] = mean / weight
    return Curve(steps, smoothed)
