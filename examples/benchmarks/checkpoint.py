"""What saving and loading a checkpoint costs: stock Lightning, ours, ours in the background.

    python examples/benchmarks/checkpoint.py [--mib 1024 64] [--repeats 5] [--folder DIR] [--sync]

They take turns, each in a process of its own that has made its checkpoint before it is watched.
*time*: until the file is there, and with ours on disk and verified; *blocked*: until training goes
on; *memory*: the peak of the resident set above what it was; *load*: with verification where there
is one. Stock Lightning's file is not brought to disk by then; `--sync` adds that to its time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from measuring import machine

from lightning_arrcoc.plugins import AtomicCheckpointIO

TARGET_RATIO, TARGET_MIB = 0.7, 64
CONTESTANTS = ("stock", "ours", "ours async")
FIGURES = ("time", "blocked", "memory", "load")
TENSORS = 16

Runs = dict[str, dict[str, list[float]]]  # contestant -> figure -> one a run


def memory_mib(line: str) -> float:
    for row in Path("/proc/self/status").read_text().splitlines():
        if row.startswith(line):
            return int(row.split()[1]) / 1024
    return float("nan")


def measure(who: str, mib: int, folder: str, sync: bool, answer: Any) -> None:
    """In a process of its own: figures of one save and one load."""
    numbers = mib * 2**18 // TENSORS
    state = {f"w{i}": torch.full((numbers,), float(i)).normal_() for i in range(TENSORS)}
    checkpoint = {"global_step": 1, "state_dict": state}
    path = Path(folder) / f"{who}.ckpt"
    io = TorchCheckpointIO() if who == "stock" else AtomicCheckpointIO(who == "ours async")
    with suppress(OSError):  # the peak starts anew
        Path("/proc/self/clear_refs").write_text("5")
    before = memory_mib("VmRSS")
    start = time.perf_counter()
    io.save_checkpoint(checkpoint, path)
    blocked = time.perf_counter() - start
    io.teardown()
    if who == "stock" and sync:
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    whole = time.perf_counter() - start
    peak = memory_mib("VmHWM") - before
    del checkpoint, state
    start = time.perf_counter()
    io.load_checkpoint(path, weights_only=True)
    answer.put({"time": whole, "blocked": blocked, "memory": peak,
                "load": time.perf_counter() - start})  # fmt: skip
    path.unlink()


def take_turns(mib: int, repeats: int, folder: str, sync: bool) -> Runs:
    found: Runs = {who: {key: [] for key in FIGURES} for who in CONTESTANTS}
    processes = multiprocessing.get_context("spawn")
    for _ in range(repeats):
        for who in CONTESTANTS:
            answer = processes.Queue()
            worker = processes.Process(target=measure, args=(who, mib, folder, sync, answer))
            worker.start()
            for key, value in answer.get().items():
                found[who][key].append(value)
            worker.join()
    return found


def show(mib: int, found: Runs) -> None:
    medians = {who: {key: statistics.median(row[key]) for key in FIGURES} for who, row in
               found.items()}  # fmt: skip
    print(f"\n{mib} MiB      time s (from .. to)      blocked s  memory MiB  load s")
    for who, row in medians.items():
        spread = f"({min(found[who]['time']):.2f} .. {max(found[who]['time']):.2f})"
        print(
            f"{who:12} {row['time']:7.2f} {spread:16} {row['blocked']:9.2f} {row['memory']:11.0f} "
            f"{row['load']:7.2f}"
        )
    for who in CONTESTANTS[1:]:
        ratios = ", ".join(f"{key} {medians[who][key] / medians['stock'][key]:.2f}"
                           for key in ("time", "blocked", "load"))  # fmt: skip
        print(f"{who}, of stock's: {ratios}")
    print(f"to reach with {CONTESTANTS[1]}: time {TARGET_RATIO}, memory {TARGET_MIB} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, nargs="+", default=[1024, 64])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on the disk in question; default: here")
    parser.add_argument("--sync", action="store_true", help="have stock's file on disk as well")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    asked = parser.parse_args()
    results = {}
    print(", ".join(machine().values()))
    print(f"load average {os.getloadavg()[0]:.1f}, medians of {asked.repeats}")
    with tempfile.TemporaryDirectory(dir=asked.folder or Path.cwd()) as folder:
        for mib in asked.mib:
            results[mib] = take_turns(mib, asked.repeats, folder, asked.sync)
            show(mib, results[mib])
    if asked.json:
        report = {"machine": machine(), "load": os.getloadavg(), "results": results}
        asked.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
