"""Which runs lie below the folders that somebody named."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from lightning_arrcoc.loggers.jsonl_file import LOG

CSV = "metrics.csv"
RANK_LOG = re.compile(r"log\.rank(\d+)\.jsonl")


class Found(NamedTuple):
    """The files of one run: logs of its ranks, the first rank's first, or one table."""

    folder: Path
    files: tuple[Path, ...]

    @property
    def is_table(self) -> bool:
        return self.files[0].suffix == ".csv"


def find_runs(words: Iterable[str]) -> list[Found]:
    """Every run in or below some folders; a file stands for its run.

    Where a JsonlLogger wrote, a table of the same run's CSVLogger is not read. A run that was
    named twice is one.

    Raises:
        ValueError: a name leads to no run, or to a file of another kind.
        OSError: a folder cannot be read.
    """
    found: dict[Path, Found] = {}
    for word in words:
        for one in _runs_of(Path(word)):
            found.setdefault(one.files[0].resolve(), one)
    return list(found.values())


def _runs_of(path: Path) -> list[Found]:
    if path.is_file():
        if path.suffix not in (".jsonl", ".csv"):
            raise ValueError(
                f"{str(path)!r} is no log; expected {LOG} or {CSV}, or the folder of a run."
            )
        return [Found(path.parent, (path,))]
    if not path.is_dir():
        raise ValueError(f"Nothing at {str(path)!r}; expected the folder of a run, or its log.")
    logs: dict[Path, list[Path]] = {}
    tables = []
    for place, folders, names in os.walk(path, onerror=_refuse):
        folders.sort()
        folder = Path(place)
        mine = [name for name in names if name == LOG or RANK_LOG.fullmatch(name)]
        if mine:
            logs[folder] = [folder / name for name in sorted(mine, key=_rank_of)]
        if CSV in names:
            tables.append(folder)
    runs = [Found(folder, tuple(files)) for folder, files in logs.items()]
    runs += [
        Found(folder, (folder / CSV,))
        for folder in tables
        if not any(log == folder or log in folder.parents for log in logs)
    ]
    if not runs:
        raise ValueError(
            f"There is no run in {str(path)!r}; expected {LOG} of a JsonlLogger or {CSV} of a "
            "CSVLogger in it or below. Train with logger=jsonl, or name another folder."
        )
    return sorted(runs, key=lambda run: run.folder)


def _rank_of(name: str) -> int:
    match = RANK_LOG.fullmatch(name)
    return int(match[1]) if match else 0


def _refuse(error: OSError) -> None:
    raise error


def short_names(found: list[Found]) -> list[str]:
    """What tells runs apart: their paths without what all of them share."""
    paths = [one.folder.resolve().parts for one in found]
    if len(paths) == 1:
        return [paths[0][-1]]
    start = _shared(paths)
    end = _shared([parts[start:][::-1] for parts in paths])
    names = ["/".join(parts[start : len(parts) - end]) for parts in paths]
    files = [one.files[0].name for one in found]
    return [
        name if names.count(name) == 1 and name else f"{name or parts[-1]} {file}"
        for name, parts, file in zip(names, paths, files, strict=True)
    ]


def _shared(paths: list[tuple[str, ...]]) -> int:
    """How many parts all of them begin with."""
    alike = (len(set(parts)) == 1 for parts in zip(*paths, strict=False))
    return sum(takewhile(bool, alike))
