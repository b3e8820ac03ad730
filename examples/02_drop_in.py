"""Adds five lines to a plain project on handwritten digits, and prints what each of them gave.

The project is as people write it: scikit-learn's digits, a small network, a Trainer. It has what
projects have: too few samples for its size, and one read of the data that comes back as NaN. It is
trained as it is, and once more with the five lines; everything else is the same.

Costs: 15 s of processor time on a busy machine, 2026-11-22.
Run: python examples/02_drop_in.py [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import logging
import math
from collections import Counter
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from lightning_arrcoc.callbacks import (
    AtomicCheckpoint,
    GradientMonitor,
    MemoryMonitor,
    OverfittingDetector,
)
from lightning_arrcoc.loggers import JsonlLogger, read_runs
from lightning_arrcoc.loggers.jsonl_file import find_logs, read_lines
from lightning_arrcoc.plugins.verifying import verify


class Digits(Dataset[tuple[Tensor, int]]):
    """Some of the digits; the read with number `bad_read` gives NaN."""

    def __init__(self, first: int, last: int, bad_read: int | None = None) -> None:
        found = load_digits()
        self.images = torch.tensor(found.images[first:last], dtype=torch.float32) / 16
        self.labels = found.target[first:last]
        self.reads, self.bad_read = 0, bad_read

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.reads += 1
        image = self.images[index]
        return (image * math.nan if self.reads == self.bad_read else image), int(self.labels[index])


class Classifier(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self.layers(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        logits = self.layers(batch[0])
        self.log("val/loss", F.cross_entropy(logits, batch[1]))
        self.log("val/accuracy", (logits.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def train(epochs: int, **drop_ins: Any) -> pl.Trainer:
    pl.seed_everything(0, verbose=False)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, log_every_n_steps=5,
        enable_progress_bar=False, enable_model_summary=False,
        **({"logger": False, "enable_checkpointing": False} | drop_ins),
    )  # fmt: skip
    trainer.fit(
        Classifier(),
        DataLoader(Digits(0, 200, bad_read=250), batch_size=20, shuffle=True),
        DataLoader(Digits(200, 1797), batch_size=800),
    )
    return trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("outputs/drop_in"))
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)

    print("== The project as it is")
    tell_accuracy(train(options.epochs))

    print("\n== The same with five lines")
    detector = OverfittingDetector("val/loss", policy="stop")
    trainer = train(
        options.epochs,
        enable_checkpointing=True,
        # The five lines:
        logger=JsonlLogger(options.folder, name="runs"),
        callbacks=[
            AtomicCheckpoint(monitor="val/loss", filename="best"),
            GradientMonitor("skip"),
            MemoryMonitor(),
            detector,
        ],
    )
    tell_accuracy(trainer)
    tell(trainer, detector)


def tell_accuracy(trainer: pl.Trainer) -> None:
    metrics = trainer.callback_metrics
    print(
        f"step {trainer.global_step}: validation loss {float(metrics['val/loss']):.3f}, "
        f"accuracy {float(metrics['val/accuracy']):.1%}"
    )


def tell(trainer: pl.Trainer, detector: OverfittingDetector) -> None:
    """What each of the lines gave."""
    saver: Any = trainer.checkpoint_callback
    manifest = verify(saver.best_model_path)
    assert manifest is not None
    print(f"\nAtomicCheckpoint: {saver.best_model_path}\n  verified, of step {manifest.step}, "
          f"validation loss {float(saver.best_model_score):.3f}")  # fmt: skip

    (log,) = find_logs(str(trainer.log_dir))
    events = Counter(line["event"] for line in read_lines(log))
    print(f"\nJsonlLogger: {log}")
    for name, times in events.items():
        print(f"  {times:5d} x {name}")

    watched = [row for row in rows(log) if row.get("grad/norm", math.nan) > 0]  # NaN is not
    norms = [row["grad/norm"] for row in watched]
    skipped = watched[-1]["grad/skipped_steps"]
    print(f"\nGradientMonitor: norm {norms[0]:.2f} at first, {norms[-1]:.3f} in the end, "
          f"{skipped:.0f} step left out")  # fmt: skip

    print("\nOverfittingDetector:")
    verdict = detector.verdict or {"step": trainer.global_step, "reasons": {"none": "no sign"}}
    for sign, reason in verdict["reasons"].items():
        print(f"  step {verdict['step']}, {sign}: {reason}")
    print("\nMemoryMonitor: the table above, and memory/... in the log")


def rows(log: Path) -> list[dict[str, Any]]:
    """With pandas or without."""
    found = read_runs(log)
    return found if isinstance(found, list) else found.to_dict("records")


if __name__ == "__main__":
    main()
