"""What it takes to go from one checkpoint to the next: reloading everything, or swapping.

    python examples/benchmarks/compare.py [--backbone tiny 2b] [--checkpoints 4] [--rounds 5]

Each way goes through the same checkpoints in a process of its own, one process after the other,
round after round.

- *reload*: the next model is loaded while the one before is still held, as a variable that is
  assigned anew holds it.
- *reload, cleaned*: `del`, `gc.collect()` and `torch.cuda.empty_cache()` come first.
- *swap, read anew*: `CheckpointComparator` keeps a single checkpoint, so that each is verified and
  read from its file.
- *swap*: it keeps all of them.

*ms*: until the next checkpoint's weights are in place, the median of a round; the backbone's are
copied out of their mapped file, as they are on the way to a device. *MiB*: the process's resident
set with one model, before the first change and at most. The ratio is to *reload*, round by round.
"2b" has the true dimensions of Qwen3-VL-2B and random weights in bf16, written to a temporary
folder first (4 GB); files come from the system's cache, which is a reload's best case.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from measuring import machine, table
from random_2b import build, configuration
from rich.console import Console

from lightning_arrcoc import ArrCocModule, ArrCocQwen3VL
from lightning_arrcoc.compare import CheckpointComparator
from lightning_arrcoc.plugins.checkpoint_file import write_checkpoint
from lightning_arrcoc.plugins.manifest import STAMPS
from lightning_arrcoc.relevance import build_realizer
from lightning_arrcoc.vlm.loading import TINY_FOLDER, hide_progress_bars
from lightning_arrcoc.weights import belongings, trained_weights

TARGET = 50
TO, CLEANED = "reload", "reload, cleaned"
WAYS = (TO, CLEANED, "swap, read anew", "swap")
Runs = dict[str, dict[str, list[float]]]  # way -> figure -> one a round


def write_backbone(name: str, folder: Path) -> Path:
    """A folder that from_pretrained takes."""
    if name == "tiny":
        return TINY_FOLDER
    where = folder / name
    if not where.exists():
        model = build(configuration(None, quarter=False), torch.device("cpu"), torch.bfloat16)
        model.backbone.save_pretrained(where)
        for kind in ("tokenizer*", "*.jinja", "preprocessor*"):
            for file in TINY_FOLDER.glob(kind):
                (where / file.name).write_bytes(file.read_bytes())
    return where


def write_checkpoints(backbone: Path, folder: Path, count: int) -> list[Path]:
    """Fresh networks, each with its own random weights, as fit saves them."""
    model = ArrCocQwen3VL.from_pretrained(str(backbone))
    paths = [folder / f"{number}.ckpt" for number in range(count)]
    for number, path in enumerate(paths):
        torch.manual_seed(number)
        model.arr_coc = build_realizer(model.backbone.config.text_config.hidden_size)
        stamps = {STAMPS: {"architecture": {"own": ArrCocModule(model).architecture()}}}
        state = {"state_dict": trained_weights(model, "arr_coc")}
        write_checkpoint(state | belongings(model, "arr_coc") | stamps, path)
    return paths


def memory_mib(line: str) -> float:
    with suppress(OSError):
        for row in Path("/proc/self/status").read_text().splitlines():
            if row.startswith(line):
                return int(row.split()[1]) / 1024
    return float("nan")


def model_of(backbone: Path) -> ArrCocQwen3VL:
    """In memory: the files are only mapped at first, and nothing was read."""
    model = ArrCocQwen3VL.from_pretrained(str(backbone))
    for weight in model.backbone.parameters():
        weight.data = weight.data.clone()
    return model.eval()


def loaded(backbone: Path, checkpoint: Path) -> ArrCocQwen3VL:
    """As everybody loads a checkpoint."""
    model = model_of(backbone)
    module = ArrCocModule(model)
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    module.on_load_checkpoint(saved)
    module.load_state_dict(saved["state_dict"])
    return model


def free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def stepper(way: str, backbone: Path, checkpoints: list[Path]) -> Callable[[Path], float]:
    """What goes on to a checkpoint and tells how long that took."""
    if way.startswith("reload"):
        held: list[ArrCocQwen3VL] = [loaded(backbone, checkpoints[-1])]

        def reload(checkpoint: Path) -> float:
            began = time.perf_counter()
            if way == CLEANED:
                held.clear()
                free()
            held[:] = [loaded(backbone, checkpoint)]
            return time.perf_counter() - began

        return reload
    comparator = CheckpointComparator(
        model_of(backbone), max_loaded=1 if "anew" in way else len(checkpoints)
    )
    for path in checkpoints:
        comparator.register(path.stem, path)
        with comparator.use(path.stem):
            pass

    def swap(checkpoint: Path) -> float:
        began = time.perf_counter()
        with comparator.use(checkpoint.stem):
            return time.perf_counter() - began

    return swap


def one_round(way: str, backbone: Path, checkpoints: list[Path], pipe: Connection) -> None:
    """In a process of its own."""
    torch.set_num_threads(1)
    hide_progress_bars()
    step = stepper(way, backbone, checkpoints)
    gc.collect()
    before = memory_mib("VmRSS")
    with suppress(OSError):  # Linux: the peak starts anew
        Path("/proc/self/clear_refs").write_text("5")
    seconds = [step(path) for path in checkpoints]
    pipe.send({
        "seconds": statistics.median(seconds), "peak_mib": memory_mib("VmHWM"),
        "before_mib": before,
    })  # fmt: skip


def race(backbone: Path, checkpoints: list[Path], rounds: int) -> Runs:
    """All ways in turn, round after round."""
    context = multiprocessing.get_context("spawn")
    runs: Runs = {way: {} for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=one_round, args=(way, backbone, checkpoints, there))
            process.start()
            there.close()  # so that a process that fails is noticed
            for figure, value in here.recv().items():
                runs[way].setdefault(figure, []).append(value)
            process.join()
    for run in runs.values():
        run["faster"] = [a / b for a, b in zip(runs[TO]["seconds"], run["seconds"], strict=True)]
    return runs


def show(name: str, runs: Runs) -> None:
    rows = {}
    for way, run in runs.items():
        milliseconds = [1000 * seconds for seconds in run["seconds"]]
        rows[way] = [
            f"{statistics.median(milliseconds):.4g}",
            f"{min(milliseconds):.4g} to {max(milliseconds):.4g}",
            f"{statistics.median(run['faster']):.4g}",
            f"{min(run['faster']):.4g} to {max(run['faster']):.4g}",
            f"{statistics.median(run['before_mib']):.0f}",
            f"{statistics.median(run['peak_mib']):.0f}",
        ]
    header = ["way", "ms", "from to", "times faster", "from to", "MiB before", "MiB at most"]
    console = Console(width=120)
    console.print(table(f"{name}: from one checkpoint to the next", header, rows))
    fastest = min(runs["swap"]["faster"])
    verdict = "reached" if fastest >= TARGET else "not reached"
    console.print(f"target: a swap at least {TARGET} times faster than {TO}: {verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", nargs="+", default=["tiny"], choices=["tiny", "2b"])
    parser.add_argument("--checkpoints", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary one if not given")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    hide_progress_bars()
    results: dict[str, Runs] = {}
    with tempfile.TemporaryDirectory(dir=asked.folder) as temporary:
        for name in asked.backbone:
            folder = Path(temporary) / f"{name} checkpoints"
            folder.mkdir()
            backbone = write_backbone(name, Path(temporary))
            checkpoints = write_checkpoints(backbone, folder, asked.checkpoints)
            results[name] = race(backbone, checkpoints, asked.rounds)
            show(name, results[name])
    if asked.json:
        report = {"machine": machine(), "load": os.getloadavg(), "results": results}
        asked.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
