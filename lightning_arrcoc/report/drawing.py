"""Panels as matplotlib figures: one by one for the page, together for a picture."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from io import BytesIO
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from lightning_arrcoc.report.colours import LIGHT, VARIABLES, Colours
from lightning_arrcoc.report.ending import Ending
from lightning_arrcoc.report.panels import Line, Mark, Panel
from lightning_arrcoc.report.quantities import MAIN
from lightning_arrcoc.report.wording import short

SIZE = (4.6, 2.45)  # inches of a panel on the page: 331 units of its SVG wide
FEW = 40  # points of a curve that are drawn as dots too
PICTURED = 6  # panels of the picture
NAMES_A_ROW = 4
MARKERS = {"trouble": "X", "turn": "D", "routine": "|"}


class Placed(NamedTuple):
    """A mark where it is drawn, in units of the SVG."""

    x: float
    y: float
    mark: Mark


def draw_panel(panel: Panel, steps: tuple[float, float], *, log: bool) -> tuple[Figure, Axes]:
    """One panel in the page's variables, without words: those are the page's own."""
    figure = Figure(figsize=SIZE)
    figure.patch.set_visible(False)
    axes = figure.add_axes((0.135, 0.115, 0.85, 0.855))
    _draw(axes, panel, steps, VARIABLES, log=log)
    return figure, axes


def place_marks(
    axes: Axes, panel: Panel, marks: Sequence[Mark], steps: tuple[float, float]
) -> list[Placed]:
    """Where marks lie in a drawn panel: on the curve of their run, routine ones at its foot."""
    placed = []
    low, high = axes.get_ylim()
    for mark in marks:
        line = _line_of(panel, mark.run)
        if line is None:
            continue
        step = float(np.clip(mark.step, *steps))
        value = _value_at(line, step)
        if mark.kind == "routine" or value is None:
            value = low
        x, y = axes.transData.transform((step, float(np.clip(value, low, high))))
        scale = 72 / axes.figure.dpi
        placed.append(Placed(x * scale, SIZE[1] * 72 - y * scale, mark))
    return placed


def picture(
    panels: Sequence[Panel],
    steps: tuple[float, float],
    marks: Sequence[Mark],
    names: Sequence[str],
    endings: Sequence[Ending],
    title: str,
) -> bytes:
    """The first panels in one PNG, with names and endings of the runs."""
    shown = _main(panels)
    columns = min(len(shown), 3) or 1
    rows = max(1, math.ceil(len(shown) / columns))
    name_rows = math.ceil(len(names) / NAMES_A_ROW)
    top = 0.55 + 0.2 * name_rows
    width, height = max(4.4 * columns, 7.0), 3.0 * rows + top
    with rc_context({"font.size": 9.0}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")  # shown as boxes
        figure = Figure(figsize=(width, height), facecolor=LIGHT.surface)
        figure.text(0.3 / width, 1 - 0.3 / height, title, fontsize=13, fontweight="bold",
                    va="center", parse_math=False)  # fmt: skip
        handles = [
            Line2D([], [], color=LIGHT.of(run), lw=3, label=f"{_cut(name)} ({ending.state})")
            for run, (name, ending) in enumerate(zip(names, endings, strict=True))
        ]
        legend = figure.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(0.2 / width, 1 - 0.46 / height),
            ncols=min(NAMES_A_ROW, len(names)), frameon=False, handlelength=1.2,
        )  # fmt: skip
        for text in legend.get_texts():
            text.set_parse_math(False)
        for place, panel in enumerate(shown):
            row, column = divmod(place, columns)
            axes = figure.add_axes((
                (column + 0.145) / columns, (height - top - 3.0 * row - 2.65) / height,
                0.83 / columns, 2.25 / height,
            ))  # fmt: skip
            _draw(axes, panel, steps, LIGHT, log=panel.prefers_log)
            axes.set_title(_heading(panel), loc="left", fontsize=10, parse_math=False)
            _draw_marks(axes, panel, marks, steps)
        content = BytesIO()
        figure.savefig(content, format="png", dpi=110)
    return content.getvalue()


def _main(panels: Sequence[Panel]) -> list[Panel]:
    """Those of the first section, and the first of each other, as far as there is room."""
    first = {panel.quantity.section: panel for panel in reversed(panels)}
    chosen = [p for p in panels if p.quantity.section == MAIN or p is first[p.quantity.section]]
    return chosen[:PICTURED]


def _heading(panel: Panel) -> str:
    roles = sorted({line.role for line in panel.lines if line.role})
    named = panel.quantity.title in {line.metric for line in panel.lines}
    words = [_cut(panel.quantity.title)]
    if "train" in roles and len(roles) > 1:
        words.append(f"(thin: train, thick: {' and '.join(set(roles) - {'train'})})")
    elif roles and not named:
        words.append(f"({' and '.join(roles)})")
    return "  ".join([*words, "log scale"] if panel.prefers_log else words)


def _cut(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"


def _draw(
    axes: Axes, panel: Panel, steps: tuple[float, float], colours: Colours, *, log: bool
) -> None:
    axes.patch.set_visible(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if log:
        axes.set_yscale("log")
    for line in panel.lines:
        _draw_line(axes, line, colours)
    margin = 0.015 * (steps[1] - steps[0])
    axes.set_xlim(steps[0] - margin, steps[1] + margin)
    low, high = axes.get_ylim()
    if not log and high - low < 1e-9 * max(abs(low), abs(high)):  # a constant, but for noise
        axes.set_ylim(low - abs(low) * 0.1 - 1e-12, high + abs(high) * 0.1 + 1e-12)
    axes.grid(axis="y", color=colours.grid, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=4, labelcolor=colours.ink)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(round(value, 6))))
    if log:
        low, high = axes.get_ylim()
        several = math.log10(high / low) >= 2
        axes.yaxis.set_major_locator(
            LogLocator(subs=(1.0,) if several else (1.0, 2.0, 5.0), numticks=6)
        )
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(float(f"{value:.6g}"))))


def _draw_line(axes: Axes, line: Line, colours: Colours) -> None:
    """Raw behind smooth; training thin where something else is there to be judged by."""
    colour, name = colours.of(line.run), f"run{line.run}"
    wide = 1.1 if line.role == "train" else 1.7
    few = line.smoothed is None and np.isfinite(line.raw.values).sum() <= FEW
    (raw,) = axes.plot(
        *line.raw, color=colour, linewidth=wide if line.smoothed is None else 0.7,
        alpha=None if line.smoothed is None else 0.28,
        marker="o" if few else "", markersize=3.2 if line.role != "train" else 2.2,
    )  # fmt: skip
    raw.set_gid(f"curve {name} {'raw' if line.smoothed else 'only'}")
    if line.smoothed is not None:
        (smoothed,) = axes.plot(*line.smoothed, color=colour, linewidth=wide)
        smoothed.set_gid(f"curve {name} smooth")


def _draw_marks(
    axes: Axes, panel: Panel, marks: Sequence[Mark], steps: tuple[float, float]
) -> None:
    low, high = axes.get_ylim()
    for mark in marks:
        line = _line_of(panel, mark.run)
        if line is None or mark.kind == "routine":
            continue
        step = float(np.clip(mark.step, *steps))
        value = _value_at(line, step)
        axes.plot(
            step, np.clip(low if value is None else value, low, high), MARKERS[mark.kind],
            color=LIGHT.of(mark.run), markersize=7 if mark.kind == "trouble" else 5,
            markeredgecolor=LIGHT.surface, markeredgewidth=0.8, zorder=5, clip_on=False,
        )  # fmt: skip


def _line_of(panel: Panel, run: int) -> Line | None:
    """The curve of a run that marks sit on: what is validated before what is trained."""
    mine = [line for line in panel.lines if line.run == run]
    return min(mine, key=lambda line: line.role == "train", default=None)


def _value_at(line: Line, step: float) -> float | None:
    """Of the drawn curve, between its points; None beyond a gap that never ends."""
    curve = (line.smoothed or line.raw).finite
    if not len(curve.steps):
        return None
    order = np.argsort(curve.steps, kind="stable")
    return float(np.interp(step, curve.steps[order], curve.values[order]))
