"""How long it takes to spend a budget on one image, on one thread of a CPU.

    python examples/benchmarks/allocation.py [--cells 32] [--repeats 50] [--json FILE]

Top-K (`coarse=False`), the quadtree, and the quadtree behind look-alikes take turns, so that a
machine that slows down slows all of them. Relevance and looks are random: the work does not depend
on what they are.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from measuring import machine
from rich.console import Console
from rich.table import Table

from lightning_arrcoc.relevance import ImageRelevance, TokenAllocator

TARGET_MS = 2.0  # of 32x32 cells
WARM_UPS = 5
LOOKS = 34  # channels of the full textures that tell how a cell looks
CHOICES = {  # coarse, compress, focus
    "top-K": (False, 0.0, 1.0),
    "quadtree": (True, 0.77, 1.0),
    "quadtree, look-alikes": (True, 0.77, 0.3),
}


def timed(cells: int, budgets: list[float], repeats: int) -> dict[tuple[str, float], list[float]]:
    """Milliseconds of each repeat."""
    random = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(cells, cells, generator=random)
    looks = torch.randn(LOOKS, cells, cells, generator=random)
    found: dict[tuple[str, float], list[float]] = {}
    for turn in range(WARM_UPS + repeats):
        for name, (coarse, compress, focus) in CHOICES.items():
            image = ImageRelevance(logits, torch.tensor([0.5, compress, focus]), looks)
            allocator = TokenAllocator(coarse=coarse)
            for budget in budgets:
                start = time.perf_counter()
                allocator([image], budget)
                if turn >= WARM_UPS:
                    spent = 1e3 * (time.perf_counter() - start)
                    found.setdefault((name, budget), []).append(spent)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, default=32, help="along either side")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.05, 0.1, 0.25, 0.5])
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.cells < 1 or arguments.repeats < 1:
        parser.error("--cells and --repeats are at least 1")
    if not all(0 < budget <= 1 for budget in arguments.budgets):
        parser.error("--budgets are shares of the cells, above 0 and up to 1")
    torch.set_num_threads(1)
    found = timed(arguments.cells, arguments.budgets, arguments.repeats)
    title = f"{arguments.cells} x {arguments.cells} cells: ms, median (lowest to highest)"
    table = Table(title=f"{title}; to reach {TARGET_MS:g}", title_justify="left")
    for name in ("choice", *(f"{budget:.0%}" for budget in arguments.budgets)):
        table.add_column(name, justify="left" if name == "choice" else "right")
    for name in CHOICES:
        runs = [found[name, budget] for budget in arguments.budgets]
        table.add_row(
            name, *(f"{statistics.median(r):.2f} ({min(r):.2f} to {max(r):.2f})" for r in runs)
        )
    console = Console(width=120)
    console.print(table)
    console.print(machine())
    if arguments.json:
        rows = [
            {"choice": name, "budget": budget, "ms": times}
            for (name, budget), times in found.items()
        ]
        report = {"machine": machine(), "cells": arguments.cells, "target_ms": TARGET_MS}
        report["results"] = rows
        arguments.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
