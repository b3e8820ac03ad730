"""Why a run ended, as far as its log says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from lightning_arrcoc.loggers.jsonl_file import LOG
from lightning_arrcoc.report.run import Run
from lightning_arrcoc.report.wording import since, utc

LIMITS = ("max_steps", "max_epochs")  # of a Trainer
STOPPED_BY = ("run/stopped", "overfit/stopped")


class Ending(NamedTuple):
    """How a run ended.

    Attributes:
        state: ``finished``, ``stopped``, ``interrupted``, ``failed``, ``open`` or ``unknown``.
        text: the reason, in a sentence.
    """

    state: str
    text: str


def ending_of(run: Run, now: datetime) -> Ending:
    """What the footer says, or that there is none.

    Args:
        run: as it was read.
        now: when it was read, to tell how long ago the last line was written.
    """
    if run.told_by != LOG:
        return Ending("unknown", f"{run.told_by} does not say how a run ended.")
    others = "".join(f" {line}" for line in _other_ranks(run))
    if run.ended is None:
        return Ending("open", _open(run, now) + others)
    reason, failed = run.ended.get("reason"), run.ended.get("status") != "success"
    if failed and str(reason).startswith(("KeyboardInterrupt", "SIGTERMException")):
        return Ending("interrupted", f"Interrupted: {str(reason).rstrip(': ')}.{others}")
    if failed:
        said = reason or run.ended.get("status") or "without a reason"
        return Ending("failed", f"Ended by an error: {said}{others}")
    stops = list(dict.fromkeys(_stops(run)))
    if stops:
        return Ending("stopped", f"Stopped: {'; '.join(stops)}.{others}")
    return Ending("finished", f"Ran to its end{_limit(run)}.{others}")


def _open(run: Run, now: datetime) -> str:
    if run.last_time is None:
        return "No footer: it was killed, crashed, or still runs."
    torn = ", cut short" if run.torn else ""
    return (
        "No footer: it was killed, crashed, or still runs. "
        f"Last line {utc(run.last_time)}, {since(now - run.last_time)} before this report{torn}."
    )


def _stops(run: Run) -> Iterator[str]:
    for event in run.happenings[run.of_last_start :]:
        if event.name not in STOPPED_BY:
            continue
        reasons: Any = event.fields.get("reasons")
        said = "; ".join(map(str, reasons.values())) if isinstance(reasons, Mapping) else (
            event.fields.get("reason") or "stopped by a callback")  # fmt: skip
        by = "overfitting, " if event.name.startswith("overfit") else ""
        yield f"{by}{str(said).rstrip('.')}"


def _other_ranks(run: Run) -> Iterator[str]:
    """What other processes said last; one that fails often tells more than rank zero."""
    for event in run.happenings[run.of_last_start :]:
        if event.rank and event.name == "run/ended" and event.fields.get("reason"):
            yield f"Rank {event.rank}: {event.fields['reason']}"


def _limit(run: Run) -> str:
    """The Trainer's limit that was reached, where the configuration names it."""
    trainer = run.config.get("trainer")
    limits = trainer if isinstance(trainer, Mapping) else run.config
    for name, reached in zip(LIMITS, (run.last_step, run.last_epoch), strict=True):
        limit = limits.get(name)
        if isinstance(limit, int | float) and 0 < limit <= (reached or 0) + 1:
            return f" ({name}={limit})"
    return ""
