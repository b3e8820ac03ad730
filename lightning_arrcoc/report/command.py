"""The command that tells runs in a page."""

from __future__ import annotations

import argparse
from datetime import datetime, timezone
from pathlib import Path

from lightning_arrcoc.atomic import write_atomically
from lightning_arrcoc.loggers.redaction import Redactor
from lightning_arrcoc.report.csv_run import read_csv
from lightning_arrcoc.report.drawing import picture
from lightning_arrcoc.report.finding import Found, find_runs, short_names
from lightning_arrcoc.report.jsonl_run import read_jsonl
from lightning_arrcoc.report.page import page, tell
from lightning_arrcoc.report.run import Run

NAME = "report.html"


def main(arguments: list[str]) -> int:
    """Write a page and a picture about some runs, and say where.

    Returns:
        0.

    Raises:
        ValueError: a name leads to no run, or `--out` is no name of a page.
        OSError: something cannot be read or written.
    """
    parser = argparse.ArgumentParser("python -m lightning_arrcoc report", description=__doc__)
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN",
        help="folder of a run, or of several; or a log.jsonl or metrics.csv",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="FILE.html",
        help=f"where the page goes, and its picture beside it ({NAME} in the first RUN)",
    )  # fmt: skip
    asked = parser.parse_args(arguments)
    out = where(asked.runs[0], asked.out)
    found = find_runs(asked.runs)
    told = tell([read(*one) for one in zip(found, short_names(found), strict=True)], _now())
    html = page(told).encode("utf-8", errors="replace")
    png = picture(
        told.drawn.panels, told.drawn.steps, told.marks, told.names, told.endings, told.title
    )
    write_atomically(out, lambda file: file.write(html))
    write_atomically(out.with_suffix(".png"), lambda file: file.write(png))
    for name, ending in zip(told.names, told.endings, strict=True):
        print(f"{name}: {' '.join(ending.text.split())}")
    print(f"page:    {out}")
    print(f"picture: {out.with_suffix('.png')}")
    return 0


def read(found: Found, name: str) -> Run:
    """Read one run, by whichever logger wrote it."""
    hide = Redactor()
    return (read_csv if found.is_table else read_jsonl)(found, name, hide)


def where(first: Path, out: Path | None) -> Path:
    """The file to write: beside what was named first, unless another was asked for."""
    if out is None:
        return (first if first.is_dir() else first.parent) / NAME
    if out.is_dir():
        return out / NAME
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(
            f"--out {str(out)!r} is no page; expected a name that ends with .html. The picture "
            "goes beside it, with .png."
        )
    return out


def _now() -> datetime:
    return datetime.now(timezone.utc)
