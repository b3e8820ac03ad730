"""The checkpoint of a folder that a run can go on from: the latest that is what was saved."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import NamedTuple

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from lightning_arrcoc.atomic import sync_folder
from lightning_arrcoc.events import record
from lightning_arrcoc.plugins import remote
from lightning_arrcoc.plugins.manifest import DamagedCheckpointError
from lightning_arrcoc.plugins.sharded import is_sharded, read_marker, verify_folder
from lightning_arrcoc.plugins.verifying import read_manifest, verify

CORRUPT = ".corrupt"
Quarantine = Callable[[str, str], object]


class Found(NamedTuple):
    """Checkpoints of a folder: verifiable ones by step, and what else lies there."""

    by_step: list[tuple[int, str]]
    damaged: list[str]
    without_manifest: list[str]


def find_last_verified(folder: str, quarantine: Quarantine | None = None) -> str | None:
    """The checkpoint of the latest step that is what was saved.

    Args:
        folder: of this machine or, where it begins with a protocol, of a store.
        quarantine: what to do with a damaged one and why it is; None leaves it where it is.

    Returns:
        None if the folder has no checkpoints at all.

    Raises:
        ValueError: there are some, and none of them verifies.
    """
    found = find_remote(folder) if remote.is_remote(folder) else find_checkpoints(Path(folder))
    spoilt = [(path, "its manifest cannot be read") for path in found.damaged]
    chosen = None
    for step, path in found.by_step:
        try:
            _verify(path)
        except (DamagedCheckpointError, OSError) as error:
            spoilt.append((path, getattr(error, "why", str(error))))
            continue
        rank_zero_info(f"The last verified checkpoint is {path}, step {step}.")
        chosen = path
        break
    for path, why in spoilt:
        if quarantine is not None:
            quarantine(path, why)
    if chosen is None and (spoilt or found.without_manifest):
        raise ValueError(
            f"{folder} has no checkpoint that can be verified: {len(spoilt)} damaged, "
            f"{len(found.without_manifest)} without a manifest. Name one by its path to resume "
            "from it, or choose another folder to start anew."
        )
    return chosen


def find_checkpoints(folder: Path) -> Found:
    """Look at every checkpoint's manifest, not yet at its content; the newest step comes first."""
    found = Found([], [], [])
    for path in sorted(folder.glob("*.ckpt")):
        try:
            if is_sharded(path):
                marker = read_marker(path)
                if marker is not None:
                    found.by_step.append((int(marker["step"]), str(path)))
            elif stat.S_ISREG(path.lstat().st_mode):  # a link's target has a name of its own
                manifest = read_manifest(path)
                if manifest is None:
                    found.without_manifest.append(str(path))
                else:
                    found.by_step.append((manifest.step, str(path)))
        except (DamagedCheckpointError, OSError):
            found.damaged.append(str(path))
    found.by_step.sort(key=lambda pair: (-pair[0], pair[1]))
    return found


def find_remote(folder: str) -> Found:
    """The same by the markers of a store: what has none was never acknowledged."""
    by_step = sorted(remote.listed(folder), key=lambda pair: (-pair[0], pair[1]))
    return Found(by_step, [], [])


def set_aside(trainer: pl.Trainer | None, path: str, why: str) -> None:
    """Rename a damaged checkpoint so that nobody takes it for one, and say so."""
    try:
        place = remote.rename(path, path + CORRUPT) if remote.is_remote(path) else _rename(path)
        renamed = f"was renamed to {PurePath(place).name}"
    except OSError as error:  # what is passed over may stay
        place, renamed = path, f"could not be renamed: {error}"
    rank_zero_warn(f"{path} is damaged ({why}) and {renamed}.")
    record(trainer, "checkpoint/quarantined", path=path, renamed_to=place, why=why)


def _rename(path: str) -> str:
    place, number = Path(path + CORRUPT), 1
    while place.exists():
        place, number = Path(f"{path}{CORRUPT}-{number}"), number + 1
    Path(path).rename(place)
    sync_folder(place.parent)
    return str(place)


def _verify(path: str) -> None:
    if remote.is_remote(path):
        with remote.downloaded(path) as copied:
            verify(copied)
    elif Path(path).is_dir():
        verify_folder(Path(path))
    else:
        verify(path)
