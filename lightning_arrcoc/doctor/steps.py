"""A few steps, as the run would take them; weights are put back afterwards."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from time import perf_counter
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch import seed_everything

from lightning_arrcoc.doctor.finding import Finding, Patient
from lightning_arrcoc.targets import build

OVERFIT_STEPS = 12  # Chosen by us: they halve the loss of the default run's first batch
STEPS = 10
FALL = 0.01  # Chosen by us: a hundredth; rounding does less, and a batch that is learnt far more
WAITING = 0.1  # Chosen by us: share of the time; below it faster loading would hardly be noticed


class Watch(pl.Callback):
    """Keeps the first batch, and each step's loss and times in seconds."""

    def __init__(self) -> None:
        self.batch: Any = None
        self.losses: list[float] = []
        self.begun: list[float] = []
        self.done: list[float] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.batch = self.batch or batch
        self.begun.append(self._now())

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self.losses.append(float(outputs["loss"]))
        self.done.append(self._now())

    def _now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # or waiting for the device would count as loading
        return perf_counter()

    @property
    def step_s(self) -> float:
        """Mean of all steps but the first, which warms up."""
        lasted = [end - start for start, end in zip(self.begun[1:], self.done[1:], strict=True)]
        return sum(lasted) / len(lasted)

    @property
    def waiting_s(self) -> float:
        """Mean between two steps."""
        gaps = [start - end for start, end in zip(self.begun[1:], self.done[:-1], strict=True)]
        return sum(gaps) / len(gaps)


class SameDraw:
    """An objective as it is when a run begins, with the same random numbers for every batch.

    What then changes between two losses of one batch is the weights.
    """

    def __init__(self, objective: Any, seed: int) -> None:
        self.objective, self.seed = objective, seed

    def __call__(self, model: Any, inputs: Any, progress: float) -> Any:
        seed_everything(self.seed, verbose=False)
        return deepcopy(self.objective)(model, inputs, 0.0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["objective"], name)


class Again:
    """One batch, over and over."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return OVERFIT_STEPS

    def __iter__(self) -> Iterator[Any]:
        return iter([self.batch] * OVERFIT_STEPS)


def one_batch(patient: Patient) -> Finding:
    """A training batch forward and backward."""
    data, watch = patient.data, Watch()
    workers, data.num_workers = data.num_workers, 0
    try:
        trial(patient, 1, watch, datamodule=data)
    finally:
        data.num_workers = workers
    patient.batch = watch.batch
    return judged(watch, f"{len(patient.batch['answers'])} samples, loss {watch.losses[0]:.4g}")


def overfit(patient: Patient) -> Finding:
    """The same batch again and again: whoever learns at all learns this one."""
    module, watch = patient.module, Watch()
    objective, module.objective = module.objective, SameDraw(module.objective, patient.config.seed)
    try:
        trial(patient, OVERFIT_STEPS, watch, train_dataloaders=Again(patient.batch))
    finally:
        module.objective = objective
    first, last = watch.losses[0], min(watch.losses[1:])
    what = f"loss {first:.4g} to {last:.4g} in {OVERFIT_STEPS} steps on one batch"
    found = judged(watch, what)
    if found.status == "ok" and last > first * (1 - FALL):
        return Finding("fail", f"{what}: it does not fall", "see training.learning_rate")
    return found


def ten_steps(patient: Patient) -> Finding:
    """The first steps of the run, with its loaders, and a batch of validation."""
    watch = Watch()
    has_val = patient.data.val is not None
    patient.trainer = trial(
        patient, STEPS, watch, datamodule=patient.data, limit_val_batches=int(has_val),
        val_check_interval=STEPS, check_val_every_n_epoch=None,
    )  # fmt: skip
    patient.share_waiting = watch.waiting_s / (watch.step_s + watch.waiting_s)
    measured = [
        f"{name} {float(value):.3g}"
        for name, value in patient.trainer.callback_metrics.items()
        if name.startswith("val/")
    ]
    what = f"{watch.step_s:.2f} s each, loss {watch.losses[0]:.4g} to {watch.losses[-1]:.4g}"
    return judged(watch, f"{what}; {', '.join(measured) or 'no validation'}")


def loading(patient: Patient) -> Finding:
    """How much of a step its loaders cost."""
    assert patient.share_waiting is not None
    what = f"{patient.share_waiting:.0%} of the time waits for data"
    if patient.share_waiting > WAITING:
        return Finding("warn", what, "python -m lightning_arrcoc doctor loader")
    return Finding("ok", what)


def judged(watch: Watch, what: str) -> Finding:
    """Whether every loss is a number."""
    if all(map(math.isfinite, watch.losses)):
        return Finding("ok", what)
    return Finding(
        "fail", f"{what}: the loss is not finite",
        "look at data and training.learning_rate; trainer.detect_anomaly=true says where",
    )  # fmt: skip


def trial(patient: Patient, steps: int, watch: Watch, **fit: Any) -> pl.Trainer:
    """Train on one device, in the scratch folder, and put the weights back."""
    options = {"limit_val_batches": 0, **{key: fit.pop(key) for key in list(fit) if key in KNOWN}}
    trainer: pl.Trainer = build(
        patient.config.trainer, logger=False, callbacks=[watch], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        devices=1, strategy="auto", default_root_dir=str(patient.scratch), max_steps=steps,
        max_epochs=-1, max_time=None, accumulate_grad_batches=1, fast_dev_run=False, **options,
    )  # fmt: skip
    with kept_weights(patient.module), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You defined a `validation_step` but have no")
        trainer.fit(patient.module, **fit)
    return trainer


KNOWN = ("limit_val_batches", "val_check_interval", "check_val_every_n_epoch")


@contextmanager
def kept_weights(module: pl.LightningModule) -> Iterator[None]:
    """What trains, and every buffer, is afterwards what it was before."""
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    before = {name: value.detach().cpu().clone() for name, value in trained.items()}
    buffers = {name: value.cpu().clone() for name, value in module.named_buffers()}
    try:
        yield
    finally:
        parameters, buffers_now = dict(module.named_parameters()), dict(module.named_buffers())
        with torch.no_grad():
            for name, value in before.items():
                parameters[name].copy_(value)
            for name, value in buffers.items():
                buffers_now[name].copy_(value)
