"""Kill a process at a random moment of its saving, again and again.

    [CHECKPOINT_MIB=1] python tests/faults/kill.py [--kills 1000] [--saver ours] [--folder DIR]

Prints as JSON how many files were torn and how many acknowledged saves were lost. TMPDIR is a
tmpfs, so that whoever writes there has to copy.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import tempfile
import time
from pathlib import Path

import torch
from savers import SAVERS, step_in

from lightning_arrcoc.atomic import TEMPORARY, sweep_temporaries

SAVES = 3  # Chosen by us: a process dies within about as many, at any part of one


def save_until_killed(saver: str, folder: Path, step: int, pipe: int) -> None:
    """Child: overwrite one name and make new ones, acknowledging each."""
    SAVERS[saver](-1, folder / "warm.ckpt")
    (folder / "warm.ckpt").unlink()
    os.write(pipe, b"-1 ready\n")
    while True:
        for name in ("last.ckpt", f"step={step}.ckpt"):
            SAVERS[saver](step, folder / name)
            os.write(pipe, f"{step} {name}\n".encode())
        step += 1


def acknowledged(pipe: int) -> dict[str, int]:
    with os.fdopen(pipe) as lines:
        pairs = [line.split(" ", 1) for line in lines.read().splitlines() if " " in line]
    return {name: int(step) for step, name in pairs}


def seconds_a_save(saver: str, folder: Path) -> float:
    """The median of a few, undisturbed."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        SAVERS[saver](0, folder / "last.ckpt")
        times.append(time.perf_counter() - start)
    (folder / "last.ckpt").unlink()
    return statistics.median(times)


def kill_once(saver: str, folder: Path, step: int, longest_s: float) -> dict[str, int]:
    """Name -> step of what the child had acknowledged when it died."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reading)
            save_until_killed(saver, folder, step, writing)
        finally:
            os._exit(1)
    os.close(writing)
    os.read(reading, len(b"-1 ready\n"))
    time.sleep(random.uniform(0, longest_s))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return acknowledged(reading)


def kill_many(kills: int, saver: str, folder: Path) -> dict[str, int]:
    report = {"kills": kills, "acknowledged": 0, "torn": 0, "lost": 0, "left": 0}
    step, expected, longest_s = 0, -1, SAVES * seconds_a_save(saver, folder)
    for _ in range(kills):
        promised = kill_once(saver, folder, step, longest_s)
        expected = max(expected, promised.get("last.ckpt", -1))
        report["acknowledged"] += len(promised)
        for path in [*folder.glob("*.ckpt")]:
            found = step_in(path)
            least = expected if path.name == "last.ckpt" else promised.get(path.name, -1)
            report["torn"] += found is None
            report["lost"] += found is not None and found < least
        report["lost"] += sum(not (folder / name).exists() for name in promised)
        sweep_temporaries(folder)
        report["left"] += len(list(folder.glob(f".*{TEMPORARY}")))
        last = step_in(folder / "last.ckpt")
        expected = -1 if last is None else last
        for path in folder.glob("*.ckpt"):
            if path.name != "last.ckpt" or last is None:
                path.unlink()
        step = max(step, expected) + 1
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--saver", choices=SAVERS, default="ours")
    parser.add_argument("--folder", type=Path, help="where to save; default: a temporary folder")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        if Path("/dev/shm").is_dir():
            tempfile.tempdir = "/dev/shm"
            os.environ["TMPDIR"] = "/dev/shm"
        print(json.dumps(kill_many(asked.kills, asked.saver, Path(folder))))


if __name__ == "__main__":
    main()
