"""What a run's own files say was measured, for a model card; no number comes from anywhere else."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_arrcoc.contest import FULL
from lightning_arrcoc.loggers.redaction import Redactor
from lightning_arrcoc.plugins.verifying import read_manifest
from lightning_arrcoc.report.command import read
from lightning_arrcoc.report.finding import find_runs

RESULTS = "results.json"
LAST = "last"  # how the names of checkpoints begin whose weights `fit` compares at its end


def measured(checkpoint: Path) -> str | None:
    """Markdown of what lies beside a checkpoint; None where no file tells a number.

    Args:
        checkpoint: in a run's folder, or in `checkpoints` below it.
    """
    run = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    parts = [*_saved_with(checkpoint), *_compared(run, checkpoint), *_logged(run)]
    return "\n\n".join(parts) or None


def _saved_with(checkpoint: Path) -> Iterator[str]:
    manifest = read_manifest(checkpoint)
    if manifest is not None and manifest.metrics:
        told = ", ".join(f"{name} {value:.4g}" for name, value in manifest.metrics.items())
        yield f"Saved with the checkpoint, at step {manifest.step}: {told}."


def _compared(run: Path, checkpoint: Path) -> Iterator[str]:
    """The contest on the test split, as `fit` writes it."""
    path = run / RESULTS
    if not path.is_file():
        return
    if not checkpoint.name.startswith(LAST):
        yield f"The run's `{RESULTS}` is of its last weights, which are not these; it is left out."
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        budgets = [float(budget) for budget in found["budgets"]]
        rows = {str(name): list(map(_shown, row)) for name, row in found["exact_match"].items()}
        full = rows.pop(FULL)[:1] + [""] * len(budgets)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError):
        yield f"The run's `{RESULTS}` could not be read; it is left out."
        return
    shares = [f"{budget:.0%} of the tokens" for budget in budgets]
    lines = [["selector", "all tokens", *shares], ["---"] * (2 + len(budgets)), [FULL, *full]]
    lines += [[name, "", *cells] for name, cells in rows.items()]
    table = [f"| {' | '.join(cells)} |" for cells in lines]
    yield (
        "Exact match in per cent on the run's test split, visual tokens a sample in brackets "
        f"(`{RESULTS}`):\n\n" + "\n".join(table)
    )


def _shown(result: Any) -> str:
    return f"{100 * float(result['exact_match']):.1f} ({float(result['tokens']):.0f})"


def _logged(run: Path) -> Iterator[str]:
    """What was validated last, of the run's own log."""
    try:
        (found,) = find_runs([str(run)])
        curves = read(found, run.name).curves
    except (ValueError, OSError):  # no log, or several
        return
    lines = []
    for name, curve in sorted(curves.items()):
        if name.startswith("val/") and len(curve.values) and math.isfinite(curve.values[-1]):
            lines.append(f"| {Redactor()(name)} | {curve.values[-1]:.4g} | {curve.steps[-1]:.0f} |")
    if lines:
        table = "\n".join(["| validated last | value | step |", "|---|---|---|", *lines])
        yield f"From the run's `{found.files[0].name}`:\n\n{table}"
