"""Figures as files."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from lightning_arrcoc.atomic import write_atomically


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))
