"""What a check finds, and checks that depend on each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from omegaconf import DictConfig, OmegaConf
from rich.table import Table
from rich.text import Text

Status = Literal["ok", "warn", "fail", "skip"]
COLOURS: dict[Status, str] = {"ok": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}


class Finding(NamedTuple):
    """What a check found.

    Attributes:
        status: "ok", "warn" where a run would do but be worse for it, "fail" where it would not,
            "skip" where nothing could be told.
        what: a sentence, with numbers.
        advice: what to do about it.
    """

    status: Status
    what: str
    advice: str = ""


class Patient:
    """The run that is examined: what it was configured with, and what checks have made of it.

    Args:
        config: of the run. Paths in the run's own folder lead to `folder`.
        folder: where the run would write; nothing does so now.
        scratch: where checks may write; it is removed.
    """

    def __init__(self, config: DictConfig, folder: Path, scratch: Path) -> None:
        yaml = OmegaConf.to_yaml(config).replace("${hydra:runtime.output_dir}", str(folder))
        self.config: Any = OmegaConf.create(yaml)
        self.folder, self.scratch = folder, scratch
        self.data: Any = None  # the data module, once its samples were seen
        self.module: Any = None
        self.batch: Any = None  # for training
        self.trainer: Any = None  # of the steps
        self.share_waiting: float | None = None
        self.shown: list[Table] = []  # to be printed ahead of the findings


class Check(NamedTuple):
    """One row.

    Attributes:
        name: what is checked.
        look: does so; what it raises is a failure.
        needs: names of checks without which it makes no sense.
    """

    name: str
    look: Callable[[Patient], Finding]
    needs: tuple[str, ...] = ()


def go_through(checks: Sequence[Check], patient: Patient) -> dict[str, Finding]:
    """Every check's finding by its name; one that fails ends none but those that need it."""
    found: dict[str, Finding] = {}
    for name, look, needs in checks:
        missing = [
            other for other in needs if other in found and found[other].status in ("fail", "skip")
        ]
        if missing:
            found[name] = Finding("skip", f"needs {' and '.join(missing)}")
            continue
        try:
            found[name] = look(patient)
        except Exception as error:
            found[name] = Finding("fail", sentence(error))
    return found


def sentence(error: Exception) -> str:
    """What an exception says, in one line."""
    text = str(error)
    if "Original Traceback" in text:  # from a worker of a loader: what it raised comes last
        text = text.rstrip().splitlines()[-1].partition(": ")[2]
    return " ".join(text.split()) or type(error).__name__


def as_table(found: dict[str, Finding]) -> Table:
    """A row for each finding."""
    table = Table("", "check", "found", "what to do", title="Doctor", title_justify="left")
    for name, (status, what, advice) in found.items():
        table.add_row(Text(status, COLOURS[status]), name, Text(what), Text(advice))
    return table
