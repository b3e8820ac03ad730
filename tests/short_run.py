"""A short run of a tiny model that test_resume starts, kills and resumes.

Started by name (`runpy.run_path(..., run_name="killed")`) it is a process of its own, to be killed;
as "command" it is one of the command line.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from PIL import Image, ImageEnhance
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_arrcoc import ArrCocModule, ArrCocQwen3VL, VqaDataModule, cli
from lightning_arrcoc.callbacks import AtomicCheckpoint, CurriculumAdvance
from lightning_arrcoc.data.digits import DigitQuestions
from lightning_arrcoc.data.sample import Sample
from lightning_arrcoc.data.staged import StagedDataset
from lightning_arrcoc.objectives import AttributionDistillation, HardChoice, Teacher
from lightning_arrcoc.vlm.lora import add_lora

STEPS = 12
SAMPLES = 10  # five batches an epoch
CANVAS_PX = (96, 96)


class How(NamedTuple):
    """What a run is; everything a test varies.

    Attributes:
        backbone: folder.
        workers: loader processes.
        saved_every: steps from one checkpoint to the next.
        kill_at: batch, counted over all epochs, before which the process kills itself.
        accumulate: batches a step.
        plain: with torch's own loader, for a negative control.
        staged: two stages, the second to be reached.
        adapters: LoRA with dropout, which draws from torch's generator.
    """

    backbone: str
    workers: int = 0
    saved_every: int = 2
    kill_at: int | None = None
    accumulate: int = 1
    plain: bool = False
    staged: bool = False
    adapters: bool = False


class Flickering:
    """Canvases whose brightness is drawn anew from three generators whenever one is looked at."""

    def __init__(self, length: int = SAMPLES, digits: int = 2) -> None:
        self.canvases = DigitQuestions(
            "train", length, canvas_px=CANVAS_PX, digits=digits, digit_px=(24, 26), turns=2,
            augment=True, families=("place", "comparison"),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.canvases)

    def __getitem__(self, index: int) -> Sample:
        sample = self.canvases[index]
        drawn = random.random() + float(np.random.rand()) + float(torch.rand(()))
        brighter: Image.Image = ImageEnhance.Brightness(sample.images[0]).enhance(0.5 + drawn / 3)
        return sample._replace(images=(brighter,))


class PlainData(VqaDataModule):
    """Loads as anybody would."""

    def train_dataloader(self) -> DataLoader[Any]:
        collate = super().train_dataloader().collate_fn
        return DataLoader(
            self.train, self.batch_size, shuffle=True, collate_fn=collate,  # type: ignore[arg-type]
            num_workers=self.num_workers or 0,
        )  # fmt: skip


class Suicide(pl.Callback):
    """Leaves no time for anything."""

    def __init__(self, batch: int | None) -> None:
        self.batch = batch

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.batch:
            os.kill(os.getpid(), signal.SIGKILL)


def train(folder: Path, how: How, checkpoint: Path | None = None) -> dict[str, Tensor]:
    """Run to the end, or to its own; the trained weights."""
    torch.set_num_threads(1)
    with isolate_rng():
        return _train(folder, how, checkpoint)


def _train(folder: Path, how: How, checkpoint: Path | None) -> dict[str, Tensor]:
    pl.seed_everything(7, workers=True, verbose=False)
    lora = add_lora if how.adapters else None
    model = ArrCocQwen3VL.from_pretrained(how.backbone, budget=0.5)
    if lora is not None:
        lora(model.backbone, rank=2, alpha=4, dropout=0.3, targets=["q_proj"])
    # A teacher that remembers is asked once more after a resume, among other neighbours.
    hard = HardChoice(teacher=Teacher(cache_mib=0)) if how.adapters else None
    module = ArrCocModule(
        model, objective=hard or AttributionDistillation(accuracy_every=2), learning_rate=1e-3
    )
    train: Any = Flickering()
    callbacks: list[pl.Callback] = [
        Suicide(how.kill_at),
        AtomicCheckpoint(
            folder, "last", every_n_train_steps=how.saved_every, enable_version_counter=False
        ),
    ]
    if how.staged:
        train = StagedDataset([Flickering(6), Flickering(8, digits=3)])
        # Of one epoch's mean: an untrained backbone is never right.
        callbacks.append(CurriculumAdvance("train/accuracy_epoch", threshold=-1.0))
    kind = PlainData if how.plain else VqaDataModule
    data = kind(
        train, Flickering(2), batch_size=2, num_workers=how.workers, pack_turns=not how.adapters
    )
    trainer = pl.Trainer(
        max_steps=STEPS, max_epochs=-1, accumulate_grad_batches=how.accumulate,
        val_check_interval=3, check_val_every_n_epoch=None, num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=int(how.staged), gradient_clip_val=1.0,
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, callbacks=callbacks,
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    trainer.save_checkpoint(folder / "end.ckpt")
    saved: dict[str, Tensor] = torch.load(folder / "end.ckpt", weights_only=True)["state_dict"]
    return saved


def command(folder: Path, words: list[str], kill_at: int | None) -> None:
    """As a user types it."""
    suicide = Suicide(kill_at)

    def on_train_batch_start(self: ArrCocModule, batch: Any, batch_idx: int) -> None:
        suicide.on_train_batch_start(self.trainer, self, batch, batch_idx)

    ArrCocModule.on_train_batch_start = on_train_batch_start  # type: ignore[method-assign]
    os.chdir(folder)
    sys.argv = ["lightning_arrcoc", *words]
    cli.main()


if __name__ in ("killed", "command"):
    # Loaders fork their workers, as in a program of its own: these classes cannot be imported.
    multiprocessing.set_start_method("fork", force=True)
if __name__ == "command":
    command(Path(FOLDER), WORDS, KILL_AT)  # type: ignore[name-defined]  # noqa: F821
if __name__ == "killed":
    train(Path(FOLDER), How(**HOW), Path(CHECKPOINT) if CHECKPOINT else None)  # type: ignore[name-defined]  # noqa: F821
