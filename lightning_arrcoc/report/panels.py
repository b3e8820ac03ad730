"""What is drawn: a panel for every quantity, with the curves of all runs and the marks on them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lightning_arrcoc.report.quantities import (
    AREAS,
    MAIN,
    OTHER,
    Quantity,
    importance,
    quantity_of,
    role_of,
)
from lightning_arrcoc.report.run import Curve, Happening, Run
from lightning_arrcoc.report.thinning import smooth, thin
from lightning_arrcoc.report.wording import number, text_of

# All chosen by us, so that a page of ten long runs stays below a few MB.
MOST_PANELS = 48
MOST_POINTS = 40_000  # of the whole page
LEAST_BINS, MOST_BINS = 24, 160
MOST_MARKS = 8000  # of the whole page
LEAST_STRETCHES, STRETCHES = 2, 40  # that events, and values to hover over, are gathered in
TOGETHER = 3  # runs whose train and val curves share a panel; more would be a thicket

SECTIONS = (MAIN, *dict.fromkeys(AREAS.values()), OTHER)
TROUBLE = re.compile(
    r"failed|nonfinite|oom|critical|spike|skipped|leaked|exploding|vanishing|refused", re.IGNORECASE
)
ROUTINE = re.compile(r"^(checkpoint/saved|overfit/best|memory/cleaned)$")
UNMARKED = ("log", "warning", "run/started", "run/ended")  # told elsewhere


class Line(NamedTuple):
    """A metric of a run, ready to be drawn.

    Attributes:
        run: number of the run.
        role: ``train``, ``val``, ``test`` or nothing.
        raw, smoothed: thinned; the second is None for a short curve.
        not_finite: how many of its values are none.
        first_not_finite: step of the first.
    """

    run: int
    metric: str
    role: str
    raw: Curve
    smoothed: Curve | None
    not_finite: int
    first_not_finite: float | None


class Mark(NamedTuple):
    """Events of a kind, of one run, that lie close together.

    Attributes:
        kind: ``trouble``, ``turn`` or ``routine``.
        text: their names, their step and what the first one says.
    """

    run: int
    step: float
    kind: str
    text: str


class Panel(NamedTuple):
    """One drawing."""

    quantity: Quantity
    lines: list[Line]

    @property
    def is_positive(self) -> bool:
        """Whether a logarithmic scale can show all of it."""
        values = [line.raw.finite.values for line in self.lines]
        return bool(all((one > 0).all() for one in values))

    @property
    def prefers_log(self) -> bool:
        """Whether values are spread over more than two orders of magnitude."""
        values = np.concatenate([line.raw.finite.values for line in self.lines])
        low, high = np.quantile(values, (0.02, 0.98))
        return self.is_positive and bool(high > 100 * low)


class Drawn(NamedTuple):
    """All panels of a page, and what is left out.

    Attributes:
        panels: in the order of their sections and importance.
        steps: from which to which all of them reach.
        single: metrics with one value a run at most; a table tells them.
        constant: metrics that never changed, and their value; the same in all runs.
    never_finite: metrics, by run, of which no value is a number, and how many values there are.
        left_out: titles beyond `MOST_PANELS`.
    """

    panels: list[Panel]
    steps: tuple[float, float]
    single: list[str]
    constant: dict[str, float]
    never_finite: list[tuple[int, str, int]]
    left_out: list[str]


def lay_out(runs: Sequence[Run]) -> Drawn:
    """Choose panels and thin their curves to what a page can hold."""
    grouped: dict[Quantity, list[tuple[int, str, Curve]]] = defaultdict(list)
    single: dict[str, None] = {}
    never_finite = []
    metrics = dict.fromkeys(metric for run in runs for metric in run.curves)
    all_of = {m: [run.curves[m] for run in runs if m in run.curves] for m in metrics}
    most = {metric: max(len(one.values) for one in curves) for metric, curves in all_of.items()}
    constant = {
        metric: float(curves[0].values[0])
        for metric, curves in all_of.items()
        if most[metric] > 1 and len(np.unique(np.concatenate([one.values for one in curves]))) == 1
        and np.isfinite(curves[0].values[0])
    }  # fmt: skip
    for place, run in enumerate(runs):
        for metric, curve in run.curves.items():
            if not len(curve.finite.values):
                never_finite.append((place, metric, len(curve.values)))
            elif most[metric] < 2:
                single[metric] = None
            elif metric not in constant:
                quantity = quantity_of(metric)
                if quantity.section == MAIN and len(runs) > TOGETHER and role_of(metric):
                    quantity = Quantity(MAIN, metric)
                grouped[quantity].append((place, metric, curve))
    order = sorted(
        grouped,
        key=lambda q: (
            SECTIONS.index(q.section), *importance(q, [metric for _, metric, _ in grouped[q]])
        ),
    )  # fmt: skip
    shown, left_out = order[:MOST_PANELS], [one.title for one in order[MOST_PANELS:]]
    steps = _reach([curve for quantity in shown for _, _, curve in grouped[quantity]])
    count = sum(len(grouped[quantity]) for quantity in shown)
    bins = int(np.clip(MOST_POINTS / (2 * max(count, 1)), LEAST_BINS, MOST_BINS))
    panels = [
        Panel(quantity, [_line(place, metric, curve, steps, bins)
                         for place, metric, curve in grouped[quantity]])
        for quantity in shown
    ]  # fmt: skip
    return Drawn(panels, steps, [*single], constant, never_finite, left_out)


def _line(
    run: int, metric: str, curve: Curve, steps: tuple[float, float], bins: int
) -> Line:  # fmt: skip
    odd = np.flatnonzero(~np.isfinite(curve.values))
    # An infinite value cannot be drawn; it is a gap, and counted.
    drawable = Curve(curve.steps, np.where(np.isfinite(curve.values), curve.values, np.nan))
    smoothed = None if _counts(curve) else smooth(drawable)
    return Line(
        run, metric, role_of(metric), thin(drawable, *steps, bins),
        None if smoothed is None else thin(smoothed, *steps, bins // 2),
        len(odd), float(curve.steps[odd[0]]) if len(odd) else None,
    )  # fmt: skip


def _counts(curve: Curve) -> bool:
    """Whether it counts something: its steps up would be smoothed into slopes."""
    values = curve.values
    return bool((np.diff(values) >= 0).all() and (values == np.round(values)).all())


def _reach(curves: Sequence[Curve]) -> tuple[float, float]:
    if not curves:
        return 0.0, 1.0
    low = min(float(curve.steps.min()) for curve in curves)
    high = max(float(curve.steps.max()) for curve in curves)
    return low, high if high > low else low + 1


def kind_of(event: Happening) -> str:
    """How much an event matters: ``trouble``, ``turn`` or ``routine``."""
    bad = event.level in ("WARNING", "ERROR", "CRITICAL") or TROUBLE.search(event.name)
    if bad:
        return "trouble"
    return "routine" if ROUTINE.match(event.name) else "turn"


def marks_of(runs: Sequence[Run], drawn: Drawn) -> list[Mark]:
    """Events as marks, those of a kind that lie close together as one; closer on a full page."""
    marked = [
        (place, event.name, event.step, event)
        for place, run in enumerate(runs)
        for event in run.happenings
        if event.name not in UNMARKED and event.step is not None
    ]
    kinds = len({(place, name) for place, name, _, _ in marked})
    room = MOST_MARKS / max(1, kinds * 2 * len(drawn.panels))  # 2 scales
    stretches = int(np.clip(room, LEAST_STRETCHES, STRETCHES))
    low, high = drawn.steps
    gathered: dict[tuple[int, str, int], list[Happening]] = defaultdict(list)
    for place, name, step, event in marked:
        stretch = int(np.clip((step - low) / (high - low) * stretches, -1, stretches + 1))
        gathered[place, name, stretch].append(event)
    return [_mark(runs[place].name, place, events) for (place, _, _), events in gathered.items()]


def _mark(run_name: str, place: int, events: Sequence[Happening]) -> Mark:
    first = events[0]
    steps = [event.step for event in events if event.step is not None]
    where = f"step {number(min(steps))}"
    if max(steps) > min(steps):
        where += f" to {number(max(steps))}"
    times = f" ({len(events)} times)" if len(events) > 1 else ""
    said = text_of(first)
    text = f"{run_name}, {where}: {first.name}{times}\n{said[:120]}".strip()
    return Mark(place, steps[0], kind_of(first), text)
