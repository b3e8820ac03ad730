"""The command that lists checkpoints and verifies them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from lightning_arrcoc.plugins.manifest import DamagedCheckpointError
from lightning_arrcoc.plugins.sharded import is_sharded, read_marker, verify_folder
from lightning_arrcoc.plugins.verifying import read_manifest, verify


class Row(NamedTuple):
    """One checkpoint, as it is listed."""

    path: Path
    step: int | None
    size: int
    metrics: str
    state: str
    bad: bool = False


def main(arguments: list[str]) -> int:
    """List the checkpoints of a folder.

    Returns:
        0, or 1 if one is damaged.

    Raises:
        ValueError: there is no such folder.
    """
    parser = argparse.ArgumentParser("python -m lightning_arrcoc checkpoints", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="where checkpoints lie")
    parser.add_argument("--verify", action="store_true", help="read every file to its end")
    asked = parser.parse_args(arguments)
    if not asked.folder.is_dir():
        raise ValueError(f"No folder at {str(asked.folder)!r}; expected one with checkpoints.")
    rows = [describe(path, whole=asked.verify) for path in sorted(asked.folder.rglob("*.ckpt*"))
            if path.suffix == ".ckpt" or ".ckpt.corrupt" in path.name]  # fmt: skip
    rows.sort(key=lambda row: (row.step is None, row.step, row.path.name))
    table = Table("step", "checkpoint", "MiB", "metrics", "state")
    for row in rows:
        table.add_row(
            "" if row.step is None else str(row.step), str(row.path.relative_to(asked.folder)),
            f"{row.size / 2**20:.1f}", row.metrics, row.state,
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    return int(any(row.bad for row in rows))


def describe(path: Path, *, whole: bool) -> Row:
    """What can be told of a checkpoint; with `whole` after reading all of it."""
    folder = is_sharded(path)
    size = sum(part.stat().st_size for part in path.rglob("*") if part.is_file()) if folder else (
        path.lstat().st_size)  # fmt: skip
    if ".ckpt.corrupt" in path.name:
        return Row(path, None, size, "", "set aside as damaged")
    try:
        if folder:
            marker = verify_folder(path) if whole else read_marker(path)
            if marker is None:
                return Row(path, None, size, "", "never finished, or not ours")
            return Row(path, int(marker["step"]), size, "", _state(whole))
        manifest = verify(path) if whole else read_manifest(path)
    except (DamagedCheckpointError, OSError) as error:
        why = getattr(error, "why", str(error))
        return Row(path, None, size, "", f"damaged: {why}", bad=True)
    if manifest is None:
        return Row(path, None, size, "", "no manifest")
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in manifest.metrics.items())
    return Row(path, manifest.step, size, metrics, _state(whole))


def _state(whole: bool) -> str:
    return "verified" if whole else "complete, content not read"
