"""Six ways in which training goes wrong, each a small run, and what the log says of it.

They are the runs behind docs/symptoms.md: a network whose loss does not fall, one that meets NaN,
one that keeps every graph, one whose batch does not fit, one that waits for its data, one that
learns its few samples by heart. Each prints the warnings that the run gave and the figures to look
at; the whole log stays in the folder, as a JsonlLogger writes it.

Costs: 10 s of processor time, 2026-11-22.
Run: python examples/03_symptoms.py [NAME ...] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_arrcoc.callbacks import (
    GradientMonitor,
    MemoryGuard,
    MemoryMonitor,
    OOMGuard,
    OverfittingDetector,
    ThroughputMonitor,
)
from lightning_arrcoc.loggers import JsonlLogger
from lightning_arrcoc.loggers.jsonl_file import read_lines


class Regression(pl.LightningModule):
    """A small network; each symptom changes one thing of it."""

    def __init__(self, lr: float = 1e-2, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 1))
        self.lr = lr

    def loss(self, batch: Sequence[Tensor]) -> Tensor:
        return F.mse_loss(self.layers(batch[0]), batch[1])

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self.log("val/loss", self.loss(batch))  # which OverfittingDetector looks at

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


def questions(count: int, noise: float = 0.0) -> TensorDataset:
    inputs = torch.randn(count, 8)
    truth = inputs[:, :1] * 2 - inputs[:, 1:2]
    return TensorDataset(inputs, truth + noise * torch.randn(count, 1))


def loader(data: Dataset[Any], batch_size: int = 16) -> DataLoader[Any]:
    return DataLoader(data, batch_size, shuffle=True)


def train(
    log_folder: Path, model: pl.LightningModule, data: DataLoader[Any], *callbacks: pl.Callback,
    held_out: DataLoader[Any] | None = None, **options: Any,
) -> Path:  # fmt: skip
    """A run as anybody's, and where its log is."""
    logger = JsonlLogger(log_folder, name="")
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=log_folder, logger=logger,
        log_every_n_steps=10, callbacks=[*callbacks], **options,
    )  # fmt: skip
    trainer.fit(model, data, held_out)
    return logger.path


# ------------------------------------------------------------------------------------ the symptoms


def loss_does_not_fall(folder: Path) -> None:
    """A learning rate ten thousand times too small."""
    log = train(folder, Regression(lr=1e-6), loader(questions(320)), GradientMonitor(
        update_ratio_every_n_steps=20), max_steps=60)  # fmt: skip
    show(log, "train/loss", "grad/norm", "grad/update_ratio")


def loss_becomes_nan(folder: Path) -> None:
    """A logarithm of what may be negative, in one of the layers, for one batch of the data."""

    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.clamp(max=6).sqrt() if bool((x > 5).any()) else x

    model = Regression()
    model.layers.insert(1, Root())
    data = questions(320)
    data.tensors[0][200] *= 40  # an outlier
    log = train(folder, model, DataLoader(data, 16), GradientMonitor("skip"), max_steps=20)
    show(log, "train/loss", "grad/norm", "grad/skipped_steps")


def memory_grows(folder: Path) -> None:
    """Losses kept for a mean, each with the graph that it came from."""

    class Keeps(Regression):
        def __init__(self) -> None:
            super().__init__(width=8192)
            self.losses: list[Tensor] = []

        def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            self.losses.append(loss)
            return loss

    log = train(
        folder, Keeps(), loader(questions(6400), 128), MemoryMonitor(summary=False), MemoryGuard(),
        max_steps=70,
    )  # fmt: skip
    show(log, "memory/rss_gib")


def memory_runs_out(folder: Path) -> None:
    """Memory for 128 samples and no more."""

    class Wide(Regression):
        def loss(self, batch: Sequence[Tensor]) -> Tensor:
            torch.empty(2**60 if len(batch[0]) > 128 else 1, dtype=torch.uint8)
            return super().loss(batch)

    data = loader(questions(2560), batch_size=256)
    log = train(folder, Wide(), data, OOMGuard("split"), max_epochs=1)
    show(log)


def training_slows_down(folder: Path) -> None:
    """Samples that take longer to read than to learn from."""

    class Slow(Dataset[tuple[Tensor, ...]]):
        def __init__(self) -> None:
            self.data = questions(320)

        def __len__(self) -> int:
            return len(self.data)

        def __getitem__(self, index: int) -> tuple[Tensor, ...]:
            time.sleep(0.002)
            return self.data[index]

    log = train(folder, Regression(), loader(Slow()), ThroughputMonitor(), max_steps=40)
    show(log, "throughput/data_wait_percent", "throughput/step_p50_ms", "throughput/samples_per_s")


def validation_is_worse(folder: Path) -> None:
    """Forty noisy samples for a network that can hold them all."""
    log = train(
        folder, Regression(width=256), loader(questions(40, noise=2.0)),
        OverfittingDetector(policy="stop"), max_epochs=80,
        held_out=DataLoader(questions(400, noise=2.0), 400),
    )  # fmt: skip
    show(log, "overfit/val_to_train", "overfit/gap_growth")


TOLD = ("at_step", "finding", "samples", "cause", "sign", "reason", "status")

SYMPTOMS: dict[str, Callable[[Path], None]] = {
    symptom.__name__: symptom
    for symptom in (
        loss_does_not_fall, loss_becomes_nan, memory_grows, memory_runs_out, training_slows_down,
        validation_is_worse,
    )
}  # fmt: skip


# ------------------------------------------------------------------------------- what they say


def show(log: Path, *keys: str) -> None:
    """The figures with these keys, of at most six lines, and what happened."""
    lines = list(read_lines(log))
    known = [line for line in lines if any(key in line["metrics"] for key in keys)]
    for place in sorted({len(known) * part // 5 for part in range(5)} | {len(known) - 1}):
        if known:
            line = known[place]
            found = [f"{key} {line['metrics'][key]:.3g}" for key in keys if key in line["metrics"]]
            print(f"step {line['step']:3}  {'  '.join(found)}")
    for line in lines:
        if line["event"] not in ("metrics", "warning", "overfit/best", "run/started"):
            rest = {key: line[key] for key in TOLD if key in line}
            print(f"step {line['step']:3}  {line['event']}  {json.dumps(rest)}")


def tell(message: Warning | str, category: type[Warning], file: str, *_: Any, **__: Any) -> None:
    """Warnings of ours; others have nothing to do with it."""
    if "lightning_arrcoc" in file:
        print(f"! {message}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SYMPTOMS))
    parser.add_argument("--folder", type=Path, default=Path("outputs/symptoms"))
    asked = parser.parse_args()
    if unknown := set(asked.names) - SYMPTOMS.keys():
        parser.error(f"{sorted(unknown)}; expected some of {', '.join(SYMPTOMS)}")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.showwarning = tell
    for name in asked.names or SYMPTOMS:
        print(f"\n== {name}")
        pl.seed_everything(0, verbose=False)
        SYMPTOMS[name](asked.folder / name)


if __name__ == "__main__":
    main()
