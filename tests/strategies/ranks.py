"""Runs of one of two processes, or of one alone with what both have; prints what came of each."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy

from lightning_arrcoc import ArrCocModule, ArrCocQwen3VL, VqaDataModule
from lightning_arrcoc.callbacks import AtomicCheckpoint
from lightning_arrcoc.data.digits import DigitQuestions
from lightning_arrcoc.data.sample import Sample, Turn
from lightning_arrcoc.objectives import AttributionDistillation, HardChoice
from lightning_arrcoc.strategies import FrozenFSDPStrategy
from lightning_arrcoc.strategies.shards import sharded_names
from lightning_arrcoc.vlm.lora import add_lora

STEPS = 4


class How(NamedTuple):
    """A run.

    Attributes:
        strategy: ddp, fsdp, fsdp2.
        hard: learns by choosing, and adapters learn as well; else by attribution.
        words: some samples show no image, so that one process has none in a whole batch.
        recompute: activations.
    """

    strategy: str = "ddp"
    hard: bool = False
    words: bool = False
    recompute: bool = False


class Losses(pl.Callback):
    """Notes what was logged as the loss of each step, and whether the batch showed a picture."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.shown: list[bool] = []
        self.measured = 0

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, at: int) -> None:
        self.shown.append(sum(batch["images"]) > 0)
        self.note(trainer)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, at: int
    ) -> None:
        self.measured += batch.get("real", len(batch["answers"]))

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        self.note(trainer)

    def note(self, trainer: pl.Trainer) -> None:
        if "train/loss" in trainer.logged_metrics:
            self.losses.append(float(trainer.logged_metrics["train/loss"]))


class Moved(pl.Callback):
    """Counts the bytes that this process hands to collectives of floats in its second step."""

    def __init__(self) -> None:
        self.bytes = 0
        self._profile: Any = None

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, at: int) -> None:
        if at == 1:
            self._profile = torch.profiler.profile(record_shapes=True)
            self._profile.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, at: int
    ) -> None:
        if self._profile is not None:
            self._profile.stop()
            for event in self._profile.events():
                if event.name in ("gloo:all_reduce", "gloo:all_gather") and event.input_shapes[0]:
                    self.bytes += 4 * math.prod(event.input_shapes[0])
            self._profile = None


def samples(words: bool) -> list[Sample]:
    """Pictures, or as many questions without one among them."""
    canvases = DigitQuestions(
        "train", 16, canvas_px=(96, 96), digits=2, digit_px=(24, 26), families=("place",)
    )
    said = Sample((), (Turn("Is it?", "yes"),))
    return [said if words and place % 2 else canvases[place] for place in range(16)]


def run(folder: Path, backbone: str, how: How, ranks: int, resume: bool = False) -> dict[str, Any]:
    """What a run came to, as this process sees it; in its middle it leaves a checkpoint."""
    pl.seed_everything(7, verbose=False)
    model = ArrCocQwen3VL.from_pretrained(backbone, budget=0.5, lora=add_lora if how.hard else None)
    objective: Any = HardChoice() if how.hard else AttributionDistillation(2, faded_turns=0.0)
    module = ArrCocModule(
        model, objective=objective, learning_rate=1e-3, checkpoint_activations=how.recompute,
        max_new_tokens=2,
    )  # fmt: skip
    strategy: Any = "auto"
    if ranks > 1:
        ddp = how.strategy == "ddp"
        strategy = DDPStrategy() if ddp else FrozenFSDPStrategy(how.strategy)  # type: ignore[arg-type]
    seen, moved = Losses(), Moved()
    data = VqaDataModule(
        samples(how.words), samples(True)[:3], batch_size=4 // ranks, val_batch_size=1,
        num_workers=0,
    )  # fmt: skip
    saving = AtomicCheckpoint(
        folder, "-".join(map(str, (ranks, *how))), every_n_train_steps=3,
        enable_version_counter=False,
    )  # fmt: skip
    trainer = pl.Trainer(
        max_steps=STEPS, max_epochs=-1, accelerator="cpu", devices=ranks, strategy=strategy,
        logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[seen, saving, *([moved] if ranks > 1 and not resume else [])],
        log_every_n_steps=1,
        val_check_interval=4, check_val_every_n_epoch=None, num_sanity_val_steps=0,
        default_root_dir=folder, gradient_clip_val=1.0,
    )  # fmt: skip
    middle = folder / f"{saving.filename}.ckpt"
    trainer.fit(module, data, ckpt_path=middle if resume else None, weights_only=True)
    weights = torch.cat([p.detach().flatten() for p in module.parameters() if p.requires_grad])
    return {
        "losses": seen.losses,
        "shown": seen.shown,
        "norm": float(weights.double().square().sum()),
        "weights": hashlib.sha256(weights.numpy().tobytes()).hexdigest(),
        "kept": float(trainer.callback_metrics.get("val/kept", 0)),
        "measured": seen.measured,
        "parts": len(sharded_names(module)),
        "moved": moved.bytes,
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    folder, backbone, wanted = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    torch.set_num_threads(1)
    found = {}
    for name, settings in wanted.items():
        resume = settings.pop("resume", False)
        with contextlib.redirect_stdout(sys.stderr):
            found[name] = run(folder, backbone, How(**settings), 2, resume)
    print("\n" + json.dumps(found), flush=True)
