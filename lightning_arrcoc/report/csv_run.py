"""A run as Lightning's CSVLogger wrote it down: its metrics and, beside them, its parameters."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lightning_arrcoc.report.finding import CSV, Found
from lightning_arrcoc.report.jsonl_run import Hide
from lightning_arrcoc.report.run import Curve, Run

NO_METRIC = ("step", "epoch")


def read_csv(found: Found, name: str, hide: Hide) -> Run:
    """Read the table of a run, and hparams.yaml where it lies beside it.

    Raises:
        OSError: the table cannot be read.
    """
    run = Run(name, found.folder, CSV)
    run.notes.append(
        f"Told by {CSV} alone, which has no events, times, versions, hardware or reason of the end."
    )
    points: dict[str, tuple[list[float], list[float]]] = {}
    with found.files[0].open(newline="", encoding="utf-8", errors="replace") as file:
        rows = csv.DictReader(line.replace("\0", "") for line in file)
        try:
            for row in rows:
                run.unreadable += not _take(run, points, row)
        except csv.Error:  # a field larger than the reader allows: the rest is no table
            run.unreadable += 1
    run.curves = {
        str(hide(metric)): Curve(np.array(steps), np.array(values))
        for metric, (steps, values) in points.items()
    }
    run.config = hide(_parameters(found.folder / "hparams.yaml", run))
    return run


def _take(
    run: Run, points: dict[str, tuple[list[float], list[float]]], row: dict[str, Any]
) -> bool:
    """Whether the row is one of numbers; empty fields are metrics that were not logged then."""
    numbers: dict[str, float] = {}
    for key, text in row.items():
        if not isinstance(key, str) or not isinstance(text, str):
            return False  # more fields than names, or fewer
        if text.strip():
            try:
                numbers[key] = float(text)
            except ValueError:
                return False
    step = numbers.get("step")
    run.note_place(step, numbers.get("epoch"), None)
    for metric in numbers.keys() - set(NO_METRIC):
        steps, values = points.setdefault(metric, ([], []))
        steps.append(step if step is not None else float(len(steps)))
        values.append(numbers[metric])
    return True


def _parameters(path: Path, run: Run) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError):  # it may name Python objects: those stay unmade
        run.notes.append(f"{path.name} beside it could not be read.")
        return {}
    return found if isinstance(found, dict) else {}
