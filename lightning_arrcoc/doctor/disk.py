"""Where the run would write: whether it may, and whether its checkpoints fit."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lightning_arrcoc.doctor.finding import Finding, Patient
from lightning_arrcoc.memory.readings import GIB, MIB
from lightning_arrcoc.plugins.space import MARGIN_BYTES, tensor_bytes
from lightning_arrcoc.provenance import git_state
from lightning_arrcoc.weights import trained_weights

MOMENTS = 2  # AdamW keeps two numbers for each that is trained
ROOM = 2  # Chosen by us: logs, pictures and whoever else writes there need some of it too


class Kept(NamedTuple):
    """How many checkpoints of one callback lie in a folder at once.

    Attributes:
        folder: theirs.
        files: at the end of the run; None where no number can be told ahead.
    """

    folder: Path
    files: int | None


def may_write(patient: Patient) -> Finding:
    """Write a file where the run would, or in the folder above that it would make.

    Raises:
        OSError: it cannot be written.
    """
    apart = (kept.folder for kept in kept_by(patient.config))
    places = {patient.folder, *(folder for folder in apart if patient.folder not in folder.parents)}
    for place in sorted(places):
        folder = existing(place)
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"doctor")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            return Finding(
                "fail", f"{folder} cannot be written: {error.strerror or error}",
                "start in another folder, or set hydra.run.dir=...",
            )  # fmt: skip
    return Finding("ok", ", ".join(map(str, sorted(places))))


def has_room(patient: Patient) -> Finding:
    """Compare what the run will keep with what is free."""
    trained = tensor_bytes(trained_weights(patient.module.model, patient.module.trains))
    moments = MOMENTS * sum(p.nbytes for p in patient.module.parameters() if p.requires_grad)
    one = trained + moments + MARGIN_BYTES
    kept = kept_by(patient.config)
    if any(files is None for _, files in kept):
        return Finding(
            "warn", f"checkpoints of {words(one)} each, and nothing says how many are kept",
            "set save_top_k and keep_periodic, or trainer.max_steps",
        )  # fmt: skip
    needed: dict[int, int] = {}
    places: dict[int, Path] = {}
    for folder, files in kept:
        device = existing(folder).stat().st_dev
        places[device] = folder
        # One more is on disk while it is written, until the one before it may go.
        needed[device] = needed.get(device, one) + one * (files or 0)
    count = sum(files or 0 for _, files in kept)
    what = (
        f"{count} checkpoints of {words(one)} (weights {words(trained)}, optimizer "
        f"{words(moments)}) and one being written: {words(sum(needed.values()))}"
    )
    for device, wanted in needed.items():
        free = shutil.disk_usage(existing(places[device])).free
        what += f"; {words(free)} free"
        if wanted > free:
            return Finding("fail", what, "make room, keep fewer (save_top_k), or another disk")
        if ROOM * wanted > free:
            return Finding("warn", f"{what}: little beside them", "make room, or keep fewer")
    return Finding("ok", what)


def is_clean(patient: Patient) -> Finding:
    """Whether the commit tells which code a run came from."""
    state = git_state()
    if state is None:
        return Finding("warn", "no git repository: no commit will tell what ran", "git init")
    if state["dirty"]:
        return Finding(
            "warn", f"commit {state['commit'][:12]}, and files differ from it", "commit them"
        )
    return Finding("ok", f"commit {state['commit'][:12]}")


def kept_by(config: Any) -> list[Kept]:
    """What each of the callbacks that save keeps on this machine; fit's own last one is one."""
    steps = config.trainer.get("max_steps", -1)
    parts = (config.get("callbacks") or {}).values()
    return [
        Kept(Path(part["dirpath"]), _files(part, steps))
        for part in parts
        if part is not None and part.get("dirpath") and "://" not in str(part["dirpath"])
    ]


def _files(part: Mapping[str, Any], steps: int) -> int | None:
    best, last = part.get("save_top_k", 1), part.get("save_last")
    every, keep = part.get("periodic_every_n_steps"), part.get("keep_periodic", -1)
    files: list[int | None] = [
        _all(steps, part.get("every_n_train_steps")) if best == -1 else best,
        1 if last else 0,
        0 if every is None else _all(steps, every) if keep == -1 else keep,
    ]
    return None if None in files else sum(number or 0 for number in files)


def _all(steps: int, every: int | None) -> int | None:
    return steps // every if every and steps > 0 else None


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that there is."""
    path = path.absolute()
    while not path.is_dir():
        path = path.parent
    return path


def words(size: int) -> str:
    """Bytes as one reads them."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.1f} MiB"
