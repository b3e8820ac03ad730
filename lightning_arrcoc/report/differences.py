"""In what runs differ before they begin: configuration, versions, commit, machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lightning_arrcoc.report.run import Run
from lightning_arrcoc.report.wording import ABSENT, plain


class Difference(NamedTuple):
    """A key and what each run says to it; `ABSENT` where it does not have the key."""

    key: str
    values: list[str]


def differences(runs: Sequence[Run]) -> list[Difference]:
    """Keys whose values are not the same in all runs, sorted within their areas."""
    known = [facts(run) for run in runs]
    keys = dict.fromkeys(key for facts_of_run in known for key in facts_of_run)
    rows = [Difference(key, [one.get(key, ABSENT) for one in known]) for key in keys]
    return [row for row in rows if len(set(row.values)) > 1]


def facts(run: Run) -> dict[str, str]:
    """Everything that was set or found before the run began, by dotted keys."""
    config = dict(sorted(_flat(run.config)))
    header = {
        key: run.started[key]
        for key in ("git", "versions", "hardware", "parameters", "host")
        if run.started.get(key) is not None
    }
    return config | dict(_flat(header))


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    inner: Any = None
    if isinstance(value, Mapping):
        inner = value.items()
    elif isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
        inner = enumerate(value)
    if inner:
        for name, one in inner:
            yield from _flat(one, f"{key}.{name}" if key else str(name))
    elif key:
        yield key, plain(value)
