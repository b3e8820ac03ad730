"""A run as a JsonlLogger wrote it down, whatever became of the file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from lightning_arrcoc.loggers.jsonl_file import LOG, parse_line
from lightning_arrcoc.report.finding import Found
from lightning_arrcoc.report.run import Curve, Happening, Run

PLACED = {"time", "level", "rank", "step", "epoch", "phase", "event", "metrics"}

Hide = Callable[[Any], Any]


def read_jsonl(found: Found, name: str, hide: Hide) -> Run:
    """Read the files of all ranks of a run.

    Args:
        found: its files.
        name: what it is called.
        hide: takes secrets out; the logger did so too, but a file may come from elsewhere.

    Raises:
        OSError: a file cannot be read.
    """
    run = Run(name, found.folder, LOG)
    reader = _Reader(run, hide)
    for file in found.files:
        reader.read(file)
    run.curves = {
        str(hide(metric)): Curve(np.array(steps, dtype=float), np.array(values, dtype=float))
        for metric, (steps, values) in reader.points.items()
    }
    run.ranks = sorted(reader.ranks)
    if run.ranks and 0 not in run.ranks:
        run.notes.append(
            f"Rank zero's {LOG} is not here: it alone has metrics, configuration and most events."
        )
    return run


class _Reader:
    """Line by line; nothing in a line is trusted to be what it should."""

    def __init__(self, run: Run, hide: Hide) -> None:
        self.run, self.hide = run, hide
        self.points: dict[str, tuple[list[float], list[float]]] = {}
        self.ranks: set[int] = set()

    def read(self, file: Path) -> None:
        with file.open("rb") as lines:
            for line in lines:
                found = parse_line(line)
                if found is not None:
                    try:
                        self._take(found)
                    except RecursionError:  # nested beyond any use
                        self.run.unreadable += 1
                elif not line.endswith(b"\n"):
                    self.run.torn = True
                elif line.strip():
                    self.run.unreadable += 1

    def _take(self, line: Mapping[str, Any]) -> None:
        run, event = self.run, str(line.get("event"))
        step, time = _number(line.get("step")), _time(line.get("time"))
        rank = int(_number(line.get("rank")) or 0)
        self.ranks.add(rank)
        run.note_place(step, _number(line.get("epoch")), time)
        if event == "metrics":
            self._take_metrics(line.get("metrics"), step)
            return
        fields = self.hide({key: value for key, value in line.items() if key not in PLACED})
        level = str(line.get("level") or "INFO")
        if event == "run/config":
            config = fields.get("config")
            run.config |= config if isinstance(config, dict) else {}
            return
        if event == "run/started" and rank == 0:
            run.started, run.ended, run.starts = fields, None, run.starts + 1
            run.of_last_start = len(run.happenings)
        elif event == "run/ended" and rank == 0:
            run.ended = fields
        run.happenings.append(Happening(str(self.hide(event)), step, rank, level, time, fields))

    def _take_metrics(self, metrics: Any, step: float | None) -> None:
        if not isinstance(metrics, dict):
            return
        for metric, value in metrics.items():
            if isinstance(value, int | float):
                steps, values = self.points.setdefault(metric, ([], []))
                steps.append(step if step is not None else steps[-1] if steps else 0.0)
                values.append(float(value))


def _number(value: Any) -> float | None:
    usable = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if usable else None


def _time(value: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)
