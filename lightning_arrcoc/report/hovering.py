"""Values to read off a panel: at every stretch of steps, what each curve was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lightning_arrcoc.report.drawing import SIZE
from lightning_arrcoc.report.panels import STRETCHES, Line, Panel
from lightning_arrcoc.report.wording import number


class Column(NamedTuple):
    """A strip of a panel, in units of its SVG, and what it says."""

    x: float
    width: float
    text: str


def columns_of(
    panel: Panel, steps: tuple[float, float], edges: tuple[float, float], names: Sequence[str]
) -> list[Column]:
    """Strips side by side; one without values is left out.

    Args:
        panel: what was drawn.
        steps: from which to which it reaches.
        edges: where these two lie, in units of the SVG.
        names: of the runs.
    """
    low, high = steps
    width = (edges[1] - edges[0]) / STRETCHES
    reach = (high - low) / STRETCHES
    found = []
    for place in range(STRETCHES):
        start = low + place * reach
        lines = [
            f"{names[line.run]}{f' {line.role}' if line.role else ''}: {value}"
            for line in panel.lines
            if (value := _value_in(line, start, start + reach * (1 + 1e-9)))
        ]
        if lines:
            title = f"step {number(round(start))} to {number(round(start + reach))}"
            text = "\n".join([title, *lines])
            found.append(Column(edges[0] + place * width, width, text))
    return found


def _value_in(line: Line, low: float, high: float) -> str:
    """The mean of what is drawn there, or the one value that is."""
    curve = (line.smoothed or line.raw).finite
    values = curve.values[(curve.steps >= low) & (curve.steps <= high)]
    if not len(values):
        return ""
    return number(float(np.mean(values)))


HEIGHT, WIDTH = SIZE[1] * 72, SIZE[0] * 72
