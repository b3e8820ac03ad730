"""The best values of every run, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lightning_arrcoc.report.quantities import (
    MAIN,
    Direction,
    direction_of,
    directions,
    importance,
    quantity_of,
    role_of,
)
from lightning_arrcoc.report.run import Curve, Run


class Value(NamedTuple):
    """A value of a metric and where it was measured."""

    value: float
    step: float


class Cell(NamedTuple):
    """A metric of one run.

    Attributes:
        best: None where it never was a number, or nobody knows which values are better.
        lowest, highest: None where it never was a number.
        last: as it was logged last, a number or not.
        wins: whether no other run is better, and some are worse.
    """

    best: Value | None
    lowest: Value | None
    highest: Value | None
    last: float
    wins: bool = False


class Row(NamedTuple):
    """A metric of all runs; None for a run that did not log it."""

    metric: str
    direction: Direction
    cells: list[Cell | None]


def best_values(runs: Sequence[Run]) -> list[Row]:
    """A row for every metric that tells how good a run is: monitored ones, then known ones.

    A value that is not finite is never the best. Of a quantity that is validated or tested,
    training's own figures are left out, as is what was measured once and is not monitored.
    """
    said = directions(runs)
    metrics = dict.fromkeys(metric for run in runs for metric in run.curves)
    judged = {quantity_of(metric) for metric in metrics if role_of(metric) in ("val", "test")}
    chosen = [
        metric
        for metric in metrics
        if (quantity_of(metric).section == MAIN or metric in said)
        and not (role_of(metric) == "train" and quantity_of(metric) in judged)
        and not metric.endswith("_step")
        and (
            metric in said
            or any(len(r.curves[metric].steps) > 1 for r in runs if metric in r.curves)
        )
    ]
    chosen.sort(key=lambda metric: (*importance(quantity_of(metric), [metric]), role_of(metric)))
    chosen.sort(key=lambda metric: (metric not in said, not direction_of(metric, said).mode))
    return [_row(metric, direction_of(metric, said), runs) for metric in chosen]


def headline(rows: Sequence[Row]) -> Row | None:
    """The metric that runs are told by: the first whose direction is known."""
    known = (row for row in rows if any(cell and cell.best for cell in row.cells))
    return next(known, None)


def _row(metric: str, direction: Direction, runs: Sequence[Run]) -> Row:
    cells = [_cell(run.curves, metric, direction) for run in runs]
    numbers = [cell.best.value for cell in cells if cell and cell.best]
    if len(set(numbers)) > 1:
        first = min(numbers) if direction.mode == "min" else max(numbers)
        cells = [
            cell._replace(wins=True) if cell and cell.best and cell.best.value == first else cell
            for cell in cells
        ]
    return Row(metric, direction, cells)


def _cell(curves: Mapping[str, Curve], metric: str, direction: Direction) -> Cell | None:
    if metric not in curves:
        return None
    curve, last = curves[metric].finite, float(curves[metric].values[-1])
    if not len(curve.values):
        return Cell(None, None, None, last)
    lowest, highest = (
        Value(float(curve.values[place]), float(curve.steps[place]))
        for place in (np.argmin(curve.values), np.argmax(curve.values))
    )
    best = {"min": lowest, "max": highest}.get(direction.mode)
    return Cell(best, lowest, highest, last)
