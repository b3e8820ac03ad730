"""A run in a few lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lightning_arrcoc.report import wording
from lightning_arrcoc.report.ending import Ending
from lightning_arrcoc.report.run import Run

COMMIT_DIGITS = 8  # as git shortens them, or one more


def summary(
    run: Run, ending: Ending, never_finite: Sequence[tuple[int, str, int]]
) -> dict[str, Any]:
    """What stands first of a run: how it ended, how far it came, how long it took, on what.

    Args:
        run: as it was read.
        ending: why it ended.
        never_finite: its metrics without a number (number of the run, name, how many values).
    """
    words = []
    if run.last_step is not None:
        words.append(f"{wording.number(run.last_step)} steps")
    if run.last_epoch is not None:
        words.append(f"epoch {wording.number(run.last_epoch)}")
    if run.first_time and run.last_time:
        words.append(wording.since(run.last_time - run.first_time))
        words.append(f"began {wording.utc(run.first_time)}")
    notes = list(run.notes)
    if run.unreadable:
        notes.append(f"{run.unreadable} unreadable {'line' if run.unreadable == 1 else 'lines'}"
                     " left out.")  # fmt: skip
    if run.torn:
        notes.append("The last line is cut short and left out.")
    if not run.curves:
        notes.append("No metric was logged.")
    notes += [
        f"{metric}: none of its {count} values is finite, so there is nothing to draw."
        for _, metric, count in never_finite
    ]
    if len(run.ranks) > 1:
        words.append(f"{len(run.ranks)} ranks told")
    if run.starts > 1:  # resumed, or tested after it was trained
        words.append(f"{run.starts} starts")
    return {
        "ending": ending,
        "words": words,
        "machine": list(_machine(run.started)),
        "notes": notes,
    }


def _machine(started: dict[str, Any]) -> Iterator[str]:
    """Hardware, versions and commit, as far as they were logged as expected."""
    hardware, parameters, versions, git = (
        found if isinstance(found := started.get(key), dict) else {}
        for key in ("hardware", "parameters", "versions", "git")
    )
    gpus = hardware.get("gpus")
    if isinstance(gpus, list):
        kinds = {str(gpu): gpus.count(gpu) for gpu in gpus}
        yield ", ".join(f"{count} x {gpu}" for gpu, count in kinds.items()) or "no GPU"
    if hardware.get("cores"):
        yield f"{hardware['cores']} cores"
    if isinstance(hardware.get("memory_bytes"), int):
        yield f"{hardware['memory_bytes'] / 2**30:.0f} GiB of memory"
    if isinstance(parameters.get("all"), int):
        trainable = parameters.get("trainable")
        part = f", {trainable:,} trained" if isinstance(trainable, int) else ""
        yield f"{parameters['all']:,} parameters{part}"
    yield from (f"{name} {versions[name]}" for name in ("torch", "lightning") if versions.get(name))
    if git.get("commit"):
        dirty = ", with changes that are not committed" if git.get("dirty") else ""
        yield f"commit {str(git['commit'])[:COMMIT_DIGITS]}{dirty}"
