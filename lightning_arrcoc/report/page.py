"""The page: everything about some runs, as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lightning_arrcoc.loggers.jsonl_file import LOG
from lightning_arrcoc.report import wording
from lightning_arrcoc.report.best import Row, best_values, headline
from lightning_arrcoc.report.colours import DARK, LIGHT, variables
from lightning_arrcoc.report.differences import differences, facts
from lightning_arrcoc.report.drawing import Placed, draw_panel, place_marks
from lightning_arrcoc.report.ending import Ending, ending_of
from lightning_arrcoc.report.happened import happened
from lightning_arrcoc.report.hovering import HEIGHT, WIDTH, Column, columns_of
from lightning_arrcoc.report.memory import memory_by_phase, tells_phases
from lightning_arrcoc.report.panels import (
    SECTIONS,
    Drawn,
    Mark,
    Panel,
    lay_out,
    marks_of,
)
from lightning_arrcoc.report.quantities import AREAS
from lightning_arrcoc.report.run import Run
from lightning_arrcoc.report.summary import summary
from lightning_arrcoc.report.svg import inline

# Chosen by us: a table is read, the log is searched.
MOST_EVENTS = 150
MOST_KEYS = 200
MEMORY = AREAS["memory"]


class Scale(NamedTuple):
    """A panel on one scale, and the marks where it puts them."""

    name: str
    svg: Markup
    marks: list[Placed]


class Chart(NamedTuple):
    """A panel with all that lies on it."""

    panel: Panel
    scales: list[Scale]
    columns: list[Column]

    @property
    def prefers(self) -> str:
        """The scale it is shown on, unless the reader asks for another."""
        return "log" if self.panel.prefers_log else "linear"


class Told(NamedTuple):
    """What was found out about some runs, once, for the page and the picture."""

    runs: Sequence[Run]
    names: list[str]
    endings: list[Ending]
    drawn: Drawn
    marks: list[Mark]
    best: list[Row]
    now: datetime

    @property
    def title(self) -> str:
        return self.names[0] if len(self.names) == 1 else f"{len(self.names)} runs compared"


def tell(runs: Sequence[Run], now: datetime) -> Told:
    """Work out everything that is told about some runs."""
    drawn = lay_out(runs)
    return Told(
        runs, [run.name for run in runs], [ending_of(run, now) for run in runs], drawn,
        marks_of(runs, drawn), best_values(runs), now,
    )  # fmt: skip


def page(told: Told) -> str:
    """The HTML; whatever comes from a log is escaped, and no script may run in it at all."""
    environment = Environment(
        loader=PackageLoader("lightning_arrcoc.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": wording.number, "since": wording.since, "utc": wording.utc,
        "says": wording.text_of,
    }  # fmt: skip
    runs = told.runs
    phases = memory_by_phase(runs)
    events = list(happened(runs))
    important = [one for one in events if one.kind != "routine"]
    different = differences(runs)
    return environment.get_template("page.html").render(
        told=told,
        runs=runs,
        summaries=[
            summary(run, ending, [one for one in told.drawn.never_finite if one[0] == place])
            for place, (run, ending) in enumerate(zip(runs, told.endings, strict=True))
        ],
        lead=_lead(told),
        sections=list(_sections(told, with_memory=bool(phases))),
        phases=phases,
        tells_phases=tells_phases(phases),
        events=important[:MOST_EVENTS],
        events_left_out=max(0, len(important) - MOST_EVENTS),
        routine=[one for one in events if one.kind == "routine"][:MOST_EVENTS],
        differences=different[:MOST_KEYS],
        differences_left_out=max(0, len(different) - MOST_KEYS),
        facts=[facts(run) for run in runs],
        colours=[(variables(LIGHT), variables(DARK))],
        palette=len(LIGHT.runs),
        size=(WIDTH, HEIGHT),
        absent=wording.ABSENT,
        log=LOG,
    )


def _lead(told: Told) -> dict[str, Any] | None:
    """The best value of all runs by the metric that they are told by, and whose it is."""
    row = headline(told.best)
    if row is None:
        return None
    known = [(cell.best, name) for cell, name in zip(row.cells, told.names, strict=True)
             if cell and cell.best]  # fmt: skip
    lowest, highest = min(known), max(known)
    value = (lowest if row.direction.mode == "min" else highest)[0]
    by = [name for best, name in known if best.value == value.value]
    return {"metric": row.metric, "mode": row.direction.mode, "value": value, "by": by}


def _sections(told: Told, *, with_memory: bool) -> Iterator[tuple[str, list[Chart]]]:
    """Headings with their charts, in their order; that of memory has a table too."""
    charts = [_chart(panel, told, f"chart{place}") for place, panel in enumerate(told.drawn.panels)]
    for section in SECTIONS:
        mine = [chart for chart in charts if chart.panel.quantity.section == section]
        if mine or (with_memory and section == MEMORY):
            yield section, mine


def _chart(panel: Panel, told: Told, name: str) -> Chart:
    scales = []
    steps = told.drawn.steps
    edges = (0.0, 1.0)
    for scale in ("linear", "log") if panel.is_positive else ("linear",):
        figure, axes = draw_panel(panel, steps, log=scale == "log")
        svg = inline(figure, f"{name}{scale}")
        scales.append(Scale(scale, svg, place_marks(axes, panel, told.marks, steps)))
        ends = axes.transData.transform([(step, axes.get_ylim()[0]) for step in steps])
        edges = (float(ends[0, 0]) * 72 / figure.dpi, float(ends[1, 0]) * 72 / figure.dpi)
    return Chart(panel, scales, columns_of(panel, steps, edges, told.names))
