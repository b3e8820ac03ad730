"""All drop-ins in one Trainer, in any order, in projects that are not ours."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from .registry import PIECES, placed
from .running import Outcome, compare, run
from .scenarios import QUIET, SCENARIOS

FOR_STAGES = "CurriculumAdvance"  # it needs a data module made for it


def chosen(folder: Path, seed: int, *, without: tuple[str, ...] = ()) -> list[Any]:
    """One of each class, with any of its settings, in any order."""
    order = random.Random(seed)
    keys = {key.partition(":")[0]: key for key in order.sample([*PIECES], len(PIECES))}
    keys = {name: key for name, key in keys.items() if name not in without}
    made = [PIECES[key].make(folder) for key in keys.values()]
    return order.sample(made, len(made))


@pytest.mark.parametrize("seed", range(5))
def test_in_any_order_they_change_nothing_and_leave_nothing(
    seed: int, bare: Callable[..., Outcome], tmp_path: Path
) -> None:
    trainer = {"reload_dataloaders_every_n_epochs": 1}
    found = run(SCENARIOS["plain"], tmp_path, **trainer, **placed(chosen(tmp_path, seed)))
    compare(found, bare("plain", **trainer))


class Gan(pl.LightningModule):
    """Two optimizers by hand, one of them every other step, as in Lightning's documentation."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 32))
        self.judge = nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 1))

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        optimizers: Any = self.optimizers()
        fake = self.generator(torch.randn(len(batch), 4))
        for number, optimizer in enumerate(optimizers):
            if number == 0 and batch_idx % 2:
                continue
            self.toggle_optimizer(optimizer)
            if number == 0:
                loss = F.softplus(-self.judge(fake)).mean()
            else:
                judged = F.softplus(-self.judge(batch)) + F.softplus(self.judge(fake.detach()))
                loss = judged.mean()
            self.log(f"loss_{number}", loss)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def train_dataloader(self) -> Any:
        return DataLoader(torch.randn(8, 32), batch_size=2)

    def configure_optimizers(self) -> Any:
        parts = (self.generator, self.judge)
        return [torch.optim.Adam(part.parameters(), lr=2e-3) for part in parts]


class Endless(IterableDataset[Tensor]):
    """Has no length."""

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            yield torch.rand(32)


class Streaming(BoringModel):
    def train_dataloader(self) -> Any:
        return DataLoader(Endless(), batch_size=2)


def compiled() -> Any:
    """`eager` traces and breaks graphs as any backend, and generates no code."""
    return torch.compile(BoringModel(), backend="eager")


PROJECTS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "Lightning's BoringModel": (BoringModel, {"max_steps": 4, "limit_val_batches": 2}),
    "a GAN": (Gan, {"max_steps": 6, "max_epochs": -1}),
    "a stream": (Streaming, {"max_steps": 4, "limit_val_batches": 1, "val_check_interval": 2}),
    "compiled": (compiled, {"max_steps": 4, "limit_val_batches": 2}),
}


@pytest.mark.filterwarnings("ignore:OverfittingDetector. no validation loss")  # where it has none
@pytest.mark.parametrize("name", PROJECTS)
def test_projects_that_are_not_ours_run_with_all_of_them(name: str, tmp_path: Path) -> None:
    make, settings = PROJECTS[name]
    left_out = (FOR_STAGES,) if name != "a GAN" else (FOR_STAGES, "OOMGuard")
    weights = []
    for made in ([], chosen(tmp_path, seed=0, without=left_out)):
        pl.seed_everything(0, verbose=False)
        module = make()
        own = {"max_epochs": 1, "limit_train_batches": None, "default_root_dir": tmp_path}
        given = {**QUIET, **own, **settings, **placed(made)}
        trainer = pl.Trainer(**given)
        trainer.fit(module)
        assert trainer.global_step == settings["max_steps"]
        weights.append({k: v.clone() for k, v in trainer.lightning_module.state_dict().items()})
    for key, value in weights[0].items():
        assert value.equal(weights[1][key]), key
