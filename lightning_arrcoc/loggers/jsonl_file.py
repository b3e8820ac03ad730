"""Files of one JSON object a line: written line by line, read whatever happened to the writer."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson

LOG = "log.jsonl"
NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}  # JSON has none


class JsonlFile:
    """Appends lines; each is handed to the system at once, in one piece.

    A process that is killed loses nothing that was appended. What is cut short by a full disk is
    given up: the next line begins anew.

    Args:
        path: of the file; folders are made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None
        self._torn = False

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one object.

        Raises:
            OSError: the disk is full, or refuses for another reason.
        """
        if self._file is None:
            self._open()
        assert self._file is not None
        content = b"\n" * self._torn + _as_json(line) + b"\n"
        self._torn = True
        if os.write(self._file, content) == len(content):
            self._torn = False

    def close(self) -> None:
        """Until the next line."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | _CLOEXEC, 0o644)
        size = os.fstat(self._file).st_size
        self._torn = size > 0 and os.pread(self._file, 1, size - 1) != b"\n"


_CLOEXEC = getattr(os, "O_CLOEXEC", 0)


def read_lines(path: str | Path) -> Iterator[dict[str, Any]]:
    """Every whole line of a log; what is no JSON object, or cut short, is left out."""
    with Path(path).open("rb") as file:
        for line in file:
            found = parse_line(line)
            if found is not None:
                yield found


def parse_line(line: bytes) -> dict[str, Any] | None:
    """What a line of a log says; None for what is no JSON object, or cut short."""
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(found, dict):
        return None
    return {**found, "metrics": _with_nan(found.get("metrics"))}


def read_runs(*runs: str | Path) -> Any:
    """The metrics of some runs, a row for every time that some were logged.

    Args:
        runs: log files, or folders in which, or below which, they are.

    Returns:
        A pandas DataFrame where pandas is installed, otherwise a list of dictionaries: run, time,
        step, epoch and phase beside the metrics, which have the names they were logged by.

    Raises:
        FileNotFoundError: there is no log.
    """
    rows = [
        {
            "run": str(path.parent),
            **{name: line.get(name) for name in ("time", "step", "epoch", "phase")},
            **line["metrics"],
        }
        for path in find_logs(*runs)
        for line in read_lines(path)
        if line["metrics"]
    ]
    if find_spec("pandas") is None:
        return rows
    import pandas as pd

    frame = pd.DataFrame(rows)
    if "time" in frame:
        frame["time"] = pd.to_datetime(frame["time"], format="ISO8601")
    return frame


def find_logs(*runs: str | Path) -> list[Path]:
    """The logs of rank zero in some folders, sorted within each.

    Raises:
        FileNotFoundError: one has none.
    """
    found: list[Path] = []
    for run in map(Path, runs):
        logs = [run] if run.is_file() else sorted(run.rglob(LOG))
        if not logs:
            raise FileNotFoundError(
                f"There is no {LOG} in {str(run)!r}. Name the folder of a run that had a "
                "JsonlLogger."
            )
        found += logs
    return found


def _as_json(line: Mapping[str, Any]) -> bytes:
    """Whatever stands in it: a log ends no run for an integer beyond 64 bits or half a letter."""
    plain = _without_nan(line)
    try:
        return orjson.dumps(plain, default=str, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        return orjson.dumps(_tamed(plain), default=str, option=orjson.OPT_NON_STR_KEYS)


def _tamed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_tamed(str(key)): _tamed(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_tamed(inner) for inner in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return value


def _with_nan(metrics: Any) -> dict[str, Any]:
    if not isinstance(metrics, dict):
        return {}
    return {k: NOT_FINITE.get(v, v) if isinstance(v, str) else v for k, v in metrics.items()}
