"""What monitoring callbacks cost a step: a bare Trainer, ours, Lightning's, the usual loop.

    python examples/benchmarks/callbacks.py [--tensors 10 1000 10000] [--step-ms 100] [--rounds 5]

All take turns in one process, each turn a fit of its own. A step is a forward and a backward pass
over so many parameter tensors, a fused AdamW, and as much waiting as makes a bare step that long:
on a CPU in the forward pass, on a GPU in its stream. *ratio*: median step by that of the bare
Trainer in the same round, median of the rounds and half their range. *added*: the same as a
difference, of the clock and of the time that this process was given, which neighbours on the
machine disturb less. On a GPU the synchronisations of a step are counted as well.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ThroughputMonitor as LightningsThroughput
from lightning.pytorch.utilities import grad_norm
from measuring import machine
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_arrcoc.callbacks import (
    GradientMonitor,
    MemoryGuard,
    MemoryMonitor,
    OOMGuard,
    OverfittingDetector,
    ThroughputMonitor,
)

TARGET_RATIO = 1.01
BARE, CLIPPING = "bare Trainer", "clip_grad_norm_"
SETTLING = 3  # first steps of a turn, which are not counted


class LightningsNorms(pl.Callback):
    """What Lightning's documentation has in place of `track_grad_norm`."""

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        pl_module.log_dict(grad_norm(pl_module, 2))


class UsualLoop(pl.Callback):
    """As it is written by hand."""

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        total = 0.0
        for name, parameter in pl_module.named_parameters():
            if parameter.grad is not None:
                if torch.isnan(parameter.grad).any().item():
                    raise RuntimeError(f"{name} has NaN")
                total += parameter.grad.norm().item() ** 2
        pl_module.log("grad_norm", total**0.5)


class Peer(NamedTuple):
    callbacks: Callable[[], list[pl.Callback]]
    options: dict[str, Any] = {}  # noqa: RUF012


def memory() -> list[pl.Callback]:
    return [MemoryMonitor(summary=False), MemoryGuard(), OOMGuard("split")]


# Whoever has another drop-in to measure adds it here.
PEERS = {
    BARE: Peer(list),
    "GradientMonitor, log": Peer(lambda: [GradientMonitor()]),
    "GradientMonitor, skip": Peer(lambda: [GradientMonitor("skip")]),
    "memory": Peer(memory),
    "throughput": Peer(lambda: [ThroughputMonitor()]),
    "overfitting": Peer(lambda: [OverfittingDetector()]),
    "all of ours": Peer(
        lambda: [GradientMonitor("skip"), OverfittingDetector(), ThroughputMonitor(), *memory()]
    ),
    "as many that do nothing": Peer(lambda: [pl.Callback() for _ in range(6)]),
    CLIPPING: Peer(list, {"gradient_clip_val": 1e9}),
    "Lightning's grad_norm": Peer(lambda: [LightningsNorms()]),
    "Lightning's throughput": Peer(lambda: [LightningsThroughput(batch_size_fn=len)]),
    "Lightning's detect_anomaly": Peer(list, {"detect_anomaly": True}),
    "isnan and item by hand": Peer(lambda: [UsualLoop()]),
}


class ManyTensors(pl.LightningModule):
    """So many parameters, and a step that takes a while."""

    def __init__(self, tensors: int, numbers: int) -> None:
        super().__init__()
        self.many = nn.ParameterList(torch.randn(numbers) for _ in range(tensors))
        self.wait_s = 0.0

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if self.device.type == "cuda":
            self._wait_in_stream()
        else:
            time.sleep(self.wait_s)
        return torch.cat(list(self.many)).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-4, fused=True)

    def _wait_in_stream(self) -> None:
        if self.wait_s:
            torch.cuda._sleep(int(self.wait_s * torch.cuda.clock_rate() * 1e6))


class Step(NamedTuple):
    """Seconds, by the clock and of this process."""

    wall: float
    own: float


class Clock(pl.Callback):
    """Seconds from step to step."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.own_times: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.times.append(time.perf_counter())
        self.own_times.append(time.process_time())

    @property
    def step(self) -> Step:
        return Step(_typical(self.times), _typical(self.own_times))


def _typical(times: list[float]) -> float:
    between = [b - a for a, b in pairwise(times)]
    return statistics.median(between[SETTLING:])


def turn(peer: Peer, module: ManyTensors, steps: int) -> Step:
    """A fit."""
    clock = Clock()
    trainer = pl.Trainer(
        max_steps=steps + SETTLING + 1, accelerator="auto", devices=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[clock, *peer.callbacks()], **peer.options,
    )  # fmt: skip
    trainer.fit(module, DataLoader(torch.zeros(steps + SETTLING + 1, 1)))
    return clock.step


def count_syncs(peer: Peer, module: ManyTensors, steps: int) -> float:
    """Synchronisations a step that CUDA notices, those of the Trainer itself included."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            turn(peer, module, steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    called = [w for w in seen if "synchronizing" in str(w.message)]
    return len(called) / (steps + SETTLING + 1)


def compare(tensors: int, asked: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Figures of each peer at this number of tensors."""
    module = ManyTensors(tensors, asked.numbers)
    natural = turn(PEERS[BARE], module, asked.steps).wall
    module.wait_s = max(0.0, asked.step_ms / 1000 - natural)
    found: dict[str, list[Step]] = {name: [] for name in PEERS}
    for number in range(asked.rounds):
        names = list(PEERS)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            found[name].append(turn(PEERS[name], module, asked.steps))
    rows: dict[str, dict[str, Any]] = {}
    for name, times in found.items():
        pairs = list(zip(times, found[BARE], strict=True))
        rows[name] = {
            "step_ms": 1000 * statistics.median(step.wall for step in times),
            "ratio": middle([a.wall / b.wall for a, b in pairs]),
            "added_ms": middle([1000 * (a.wall - b.wall) for a, b in pairs]),
            "added_own_ms": middle([1000 * (a.own - b.own) for a, b in pairs]),
        }
        if torch.cuda.is_available():
            rows[name]["syncs_a_step"] = count_syncs(PEERS[name], module, asked.steps)
    return rows


def middle(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "half_range": (max(values) - min(values)) / 2}


def in_words(value: dict[str, float], digits: int) -> str:
    return f"{value['median']:7.{digits}f} ± {value['half_range']:.{digits}f}".ljust(18)


def print_rows(tensors: int, rows: dict[str, dict[str, Any]]) -> None:
    syncs = "  syncs" if torch.cuda.is_available() else ""
    head = f"  step ms    {'ratio':18}{'added ms':18}{'of the process':18}{syncs}"
    print(f"\n{tensors} tensors".ljust(28) + head)
    for name, row in rows.items():
        counted = f"  {row['syncs_a_step']:5.1f}" if syncs else ""
        print(
            f"{name:27} {row['step_ms']:8.2f}  {in_words(row['ratio'], 3)}"
            f"{in_words(row['added_ms'], 2)}{in_words(row['added_own_ms'], 2)}{counted}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tensors", type=int, nargs="+", default=[10, 1000, 10_000])
    parser.add_argument("--numbers", type=int, default=1000, help="in each tensor")
    parser.add_argument("--step-ms", type=float, default=100.0, help="of the bare Trainer")
    parser.add_argument("--steps", type=int, default=20, help="of a turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    asked = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(", ".join([*machine().values(), device, f"{torch.get_num_threads()} threads"]))
    print(f"load average {os.getloadavg()[0]:.1f}, {asked.rounds} rounds of {asked.steps} steps")
    results = {}
    for tensors in asked.tensors:
        rows = results[tensors] = compare(tensors, asked)
        print_rows(tensors, rows)
    print(f"\nto reach: a ratio of {TARGET_RATIO}, and never more than {CLIPPING} adds")
    if asked.json:
        report = {"machine": machine() | {"device": device}, "load": os.getloadavg(),
                  "settings": {"step_ms": asked.step_ms, "steps": asked.steps,
                               "rounds": asked.rounds, "numbers": asked.numbers},
                  "results": results}  # fmt: skip
        asked.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
