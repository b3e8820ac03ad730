"""Finding bad samples ahead, shared between workers and processes, and listing them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset

from lightning_arrcoc.atomic import write_atomically
from lightning_arrcoc.data.questions import Questions, Skipped
from lightning_arrcoc.data.sample import Sample, Source
from lightning_arrcoc.data.staged import stages_of

SKIPPED = "skipped.jsonl"  # in the folder of the run
T = TypeVar("T")


class _Found(NamedTuple):
    """What one process says about its share of a source.

    Attributes:
        rows: which rows it believes there are, as a sha256.
        bad: row -> reason.
        failure: why it could not go on, if so.
    """

    rows: str
    bad: dict[int, str]
    failure: str | None


def questions_in(sources: Iterable[Source | None]) -> list[Questions]:
    """Those that may hold bad samples, also where they are stages of another."""
    parts = (part for source in sources if source is not None for part in stages_of(source))
    return [part for part in parts if isinstance(part, Questions)]


class Unchecked(Dataset[Sample | Skipped]):
    """All rows of a source that leaves out bad ones, before it knows which: these are told apart.

    Drawing from the source itself would first open everything.
    """

    def __init__(self, source: Questions) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source.rows)

    def __getitem__(self, index: int) -> Sample | Skipped:
        row = int(self.source.rows[index])
        found = self.source.attempt(row)
        return Skipped(*self.source.where(row), found) if isinstance(found, str) else found


def unchecked(sources: Iterable[Source | None]) -> list[Source | Unchecked]:
    """Every source, stage by stage, without a search for bad samples ahead."""
    parts = (part for source in sources if source is not None for part in stages_of(source))
    return [
        Unchecked(part) if isinstance(part, Questions) and not part.is_checked else part
        for part in parts
    ]


def leave_out_bad(source: Questions, workers: int = 0) -> None:
    """Find a source's bad samples and take them out, the same ones in every process.

    Every process opens its share of the samples and tells the others; all must call this.

    Args:
        source: on which nobody has drawn yet; nothing happens where it is checked already.
        workers: processes of each process that open pictures.

    Raises:
        ValueError: processes see different rows, or nothing would be left.
        OSError: in some process pictures could not be read at all.
    """
    if source.is_checked:
        return
    everybody = exchange(_judge_share(source, workers))
    failures = [found.failure for found in everybody if found.failure]
    if failures:
        raise OSError(failures[0])
    if len({found.rows for found in everybody}) > 1:
        raise ValueError(
            f"Processes see different samples in {source.where(0)[0]!r}. Let all of them read the "
            "same files."
        )
    source.leave_out({row: reason for found in everybody for row, reason in found.bad.items()})


def exchange(mine: T) -> list[T]:
    """What every process holds, in the order of their ranks."""
    if not (dist.is_available() and dist.is_initialized()):
        return [mine]
    theirs: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(theirs, mine)
    return theirs


def write_skipped(path: str | Path, skipped: Iterable[Skipped]) -> None:
    """List what was left out, a JSON object a line; several sources of one file say it once."""
    lines = [json.dumps(one._asdict(), ensure_ascii=False) for one in sorted(set(skipped))]
    write_atomically(path, lambda file: file.write("\n".join([*lines, ""]).encode()))


def _judge_share(source: Questions, workers: int) -> _Found:
    """Open every n-th sample, n being the number of processes."""
    together = dist.is_available() and dist.is_initialized()
    rank, world = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
    rows = sha256(source.rows.tobytes()).hexdigest()
    share = _Judged(source, source.rows[rank::world].tolist())
    try:
        loader = DataLoader(share, batch_size=None, num_workers=workers, collate_fn=_as_it_is)
        return _Found(rows, {row: why for row, why in loader if why is not None}, None)
    except Exception as error:  # the others wait to be told
        return _Found(rows, {}, f"{type(error).__name__}: {(str(error).splitlines() or [''])[-1]}")


class _Judged(Dataset[tuple[int, str | None]]):
    """Rows with what is wrong with them."""

    def __init__(self, source: Questions, rows: Sequence[int]) -> None:
        self.source, self.rows = source, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[int, str | None]:
        return self.rows[index], self.source.judge(self.rows[index])


def _as_it_is(item: T) -> T:
    return item
