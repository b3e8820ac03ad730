"""What runs of Lightning are like: a module, a Trainer's arguments, and how it ends."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

QUIET = {
    "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False,
    "enable_progress_bar": False, "enable_model_summary": False, "max_epochs": 2,
    "limit_train_batches": 3, "log_every_n_steps": 1,
}  # fmt: skip


class Samples(Dataset[Tensor]):
    """A few; with the stages that a curriculum goes through."""

    stages, stage = ("easy", "hard"), 0

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        return torch.linspace(-1, 1, 4) * (index + 1) / 8


class Data(pl.LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        self.train = Samples()

    def train_dataloader(self) -> Any:
        return DataLoader(self.train, batch_size=2, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(Samples(), batch_size=2)

    test_dataloader = predict_dataloader = val_dataloader


class Plain(pl.LightningModule):
    """Draws from all random generators in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.2), nn.Linear(4, 1))

    def loss(self, batch: Tensor) -> Tensor:
        noise = random.random() + np.random.rand() + torch.rand(())
        return (self.net(batch + 0.1 * noise) - 1).square().mean()

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("train/loss", loss)
        self.log("train/accuracy", 0.5, on_epoch=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val/loss", self.loss(batch))

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("test/loss", self.loss(batch))

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Manual(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


class Several(Plain):
    """Two optimizers in turn, as a GAN has them."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.critic = nn.Linear(1, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        for optimizer, sign in zip(self.optimizers(), (1, -1), strict=True):  # type: ignore[arg-type]
            self.toggle_optimizer(optimizer)
            loss = self.critic(self.net(batch) * sign).square().mean()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.untoggle_optimizer(optimizer)
        self.log("train/accuracy", 0.5, on_epoch=True)

    def configure_optimizers(self) -> Any:
        parts = (self.net, self.critic)
        return [torch.optim.AdamW(part.parameters(), lr=0.01) for part in parts]


class Skipping(Plain):
    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return None if batch_idx == 1 else loss


class Fused(Plain):
    """Its optimizer is told in its kernel what to leave out; a step fails when it is done."""

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.global_step == 2:
            fail()

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.01, fused=True)


class Failing(Plain):
    """Raises at a call of a method."""

    def __init__(self, method: str, fail: Callable[[], Any], call: int = 2) -> None:
        super().__init__()
        inside, calls = getattr(self, method), []

        def failing(*args: Any) -> Any:
            calls.append(args)
            if len(calls) == call:
                fail()
            return inside(*args)

        vars(self)[method] = failing


class PlannedError(RuntimeError):
    pass


def fail() -> None:
    raise PlannedError("planned")


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


class Scenario(NamedTuple):
    """A run; what it `raises` is what comes out of the Trainer."""

    module: Callable[[], pl.LightningModule] = Plain
    trainer: Mapping[str, Any] = {}
    runs: str = "fit"
    raises: type[BaseException] | None = None


SCENARIOS: dict[str, Scenario] = {
    "plain": Scenario(),
    "accumulating": Scenario(trainer={"accumulate_grad_batches": 2, "gradient_clip_val": 0.1}),
    "manual": Scenario(Manual),
    "several optimizers": Scenario(Several),
    "a step without loss": Scenario(Skipping),
    "fast_dev_run": Scenario(trainer={"fast_dev_run": True}),
    "overfit_batches": Scenario(trainer={"overfit_batches": 2}),
    "no training batches": Scenario(trainer={"limit_train_batches": 0}),
    "no validation": Scenario(trainer={"limit_val_batches": 0}),
    "no steps": Scenario(trainer={"max_steps": 0}),
    "validate alone": Scenario(runs="validate"),
    "test alone": Scenario(runs="test"),
    "predict alone": Scenario(runs="predict"),
    "nothing to test": Scenario(runs="test", trainer={"limit_test_batches": 0}),
    "fails before it begins": Scenario(
        lambda: Failing("configure_optimizers", fail, 1), raises=PlannedError
    ),
    "fails in a step": Scenario(lambda: Failing("training_step", fail), raises=PlannedError),
    "fails behind a fused step": Scenario(Fused, raises=PlannedError),
    "fails in the sanity check": Scenario(
        lambda: Failing("validation_step", fail, 1), raises=PlannedError
    ),
    "fails in validation": Scenario(
        lambda: Failing("validation_step", fail, 4), raises=PlannedError
    ),
    "interrupted in a step": Scenario(
        lambda: Failing("training_step", interrupt), raises=SystemExit
    ),
    "interrupted in validation": Scenario(
        lambda: Failing("validation_step", interrupt, 4), raises=SystemExit
    ),
    "fails in test": Scenario(lambda: Failing("test_step", fail), runs="test", raises=PlannedError),
}
