"""How much faster several processes train than one: samples a second, and the share of n times one.

Each process has a batch of its own size, so the whole batch grows with them (weak scaling). Without
a GPU they share the cores of this machine by gloo: beyond the number of cores nothing can be
gained, and each process takes one thread, so that one is not helped by cores others would need.

    python examples/benchmarks/scaling.py --processes 1 2 4
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch

from lightning_arrcoc import ArrCocModule, ArrCocQwen3VL, VqaDataModule
from lightning_arrcoc.data.digits import DigitQuestions

WARM_UP = 2  # steps: buckets, allocator and caches settle
FOUND = "found "


class Watch(pl.Callback):
    """Times steps, all processes together: each ends with an average over them."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        if trainer.global_step == WARM_UP:
            self.began = time.perf_counter()
        self.ended = time.perf_counter()


def train(given: argparse.Namespace) -> None:
    """One of the processes."""
    warnings.simplefilter("ignore")
    processes, cuda = int(os.environ["WORLD_SIZE"]), torch.cuda.is_available()
    torch.set_num_threads(1)
    pl.seed_everything(0, verbose=False)
    model = ArrCocQwen3VL.from_pretrained(given.backbone, random_weights=given.random_weights)
    steps = WARM_UP + given.steps
    canvases = DigitQuestions("train", steps * given.batch * processes)
    data = VqaDataModule(canvases, batch_size=given.batch, num_workers=0, pack_turns=True)
    watch = Watch()
    pl.Trainer(
        max_steps=steps, accelerator="gpu" if cuda else "cpu", devices=processes,
        strategy="ddp", precision="bf16-mixed" if cuda else "32-true", logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        limit_val_batches=0, callbacks=[watch],
    ).fit(ArrCocModule(model), data)  # fmt: skip
    if os.environ["RANK"] == "0":
        rate = given.steps * given.batch * processes / (watch.ended - watch.began)
        print(FOUND + json.dumps(rate), flush=True)


def measure(given: argparse.Namespace, processes: int) -> float:
    """Samples a second of all processes together, as torchrun starts them."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        "--nproc-per-node", str(processes), __file__, "--batch", str(given.batch),
        "--steps", str(given.steps), "--backbone", given.backbone,
        *(["--random-weights"] if given.random_weights else []),
    ]  # fmt: skip
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(FOUND)]
    if done.returncode or not lines:
        raise RuntimeError(f"{processes} processes did not end well:\n{done.stderr[-2000:]}")
    return float(json.loads(lines[0].removeprefix(FOUND)))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--batch", type=int, default=8, help="samples of each process")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--random-weights", action="store_true")
    given = parser.parse_args(arguments)
    if min(*given.processes, given.batch, given.steps, 1) < 1:
        parser.error("--processes, --batch and --steps are 1 or more.")
    if "RANK" in os.environ:
        train(given)
        return
    cuda = torch.cuda.is_available()
    units = torch.cuda.device_count() if cuda else len(os.sched_getaffinity(0))
    print(f"{units} {'GPUs' if cuda else 'cores'}: more processes than that cannot be faster.")
    print("| processes | samples a second | efficiency |\n|---|---|---|")
    one = 0.0
    for processes in given.processes:
        if cuda and processes > units:
            print(f"| {processes} | no {processes} GPUs | |")
            continue
        rate = measure(given, processes)
        one = one or rate / processes
        print(f"| {processes} | {rate:.1f} | {rate / processes / one:.0%} |", flush=True)


if __name__ == "__main__":
    main()
