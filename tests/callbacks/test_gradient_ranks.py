"""Two processes under DDP: what one of them meets, both decide on alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import json, math, sys, warnings
import lightning.pytorch as pl, torch, torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader
from lightning_arrcoc.callbacks import GradientMonitor

folder, where, policy, optimizer, accumulate = sys.argv[1:6]
calls = []

def counting(tensor, *args, before=dist.all_reduce, **kwargs):
    calls.append(tensor.numel())
    return before(tensor, *args, **kwargs)

class Planted(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        found = self.second(torch.relu(self.first(batch))).square().mean()
        if self.global_rank == 1 and batch_idx == 5:
            if where == "nan":
                self.first(batch * math.nan)
                found = found * math.nan
            if where == "output":
                found = self.second(self.first(batch) * math.inf).square().mean()
            if where == "spike":
                found = found * 1e6
        return found

    def configure_optimizers(self):
        if optimizer == "sgd":
            return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)
        return torch.optim.AdamW(self.parameters(), lr=0.01, fused=optimizer == "fused")

class Counting(pl.Callback):
    def on_train_start(self, *_):
        dist.all_reduce = counting

monitor = GradientMonitor(policy, window=4) if policy != "none" else Counting()
trainer = pl.Trainer(
    max_steps=8, accelerator="cpu", devices=2, strategy="ddp", logger=False, log_every_n_steps=1,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    accumulate_grad_batches=int(accumulate), callbacks=[Counting(), monitor],
)
module = Planted()
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    trainer.fit(module, DataLoader(torch.randn(128, 4, generator=torch.Generator().manual_seed(1)),
                                   batch_size=2))
optimizer_state = [v for s in trainer.optimizers[0].state.values() for v in s.values()]
begun = f"Step {5 // int(accumulate)} is"
told = [str(w.message) for w in seen if str(w.message).startswith(begun)]
weights = torch.cat([p.detach().flatten() for p in module.parameters()])
with open(f"{folder}/{trainer.global_rank}.json", "w") as file:
    json.dump({
        "weights": [str(x) for x in weights.tolist()],
        "finite": bool(weights.isfinite().all()) and all(bool(v.isfinite().all())
                                                         for v in optimizer_state if v is not None),
        "steps": trainer.global_step, "told": told, "collectives": calls,
        "skipped": float(trainer.callback_metrics.get("grad/skipped_steps", -1)),
        "reason": getattr(monitor, "stop_reason", ""),
    }, file)
"""


Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def run(tmp_path: Path, run_program: Callable[..., Any]) -> Run:
    def run(*words: str) -> list[dict[str, Any]]:
        (tmp_path / "script.py").write_text(SCRIPT)
        done = run_program(tmp_path / "script.py", str(tmp_path), *words, ranks=2)
        assert done.returncode == 0, done.stderr[-3000:]
        return [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]

    return run


@pytest.mark.parametrize(
    ("optimizer", "accumulate"), [("fused", "1"), ("unfused", "2"), ("sgd", "1")]
)
def test_nan_in_one_rank_is_skipped_by_both(optimizer: str, accumulate: str, run: Run) -> None:
    zero, one = run("output", "skip", optimizer, accumulate)
    assert zero["weights"] == one["weights"]
    assert zero["finite"]
    assert one["finite"]
    assert zero["skipped"] == one["skipped"] == 1
    (words,) = zero["told"]
    assert "Rank 0: Every module's output is finite" in words
    assert "Rank 1: The first output that is not finite is that of 'second' (Linear)" in words


def test_a_spike_of_one_ranks_loss_is_skipped_by_both(run: Run) -> None:
    zero, one = run("spike", "skip", "fused", "1")
    assert zero["weights"] == one["weights"]
    assert zero["skipped"] == one["skipped"] == 1
    assert zero["collectives"] == [1] * 8  # the loss, which ranks do not share


def test_both_stop_at_the_same_step(run: Run) -> None:
    zero, one = run("nan", "stop", "fused", "1")
    assert zero["steps"] == one["steps"] == 7
    assert zero["reason"] == one["reason"] == "step 5 is not finite."


def test_watching_takes_no_collective(run: Run) -> None:
    zero, _ = run("", "log", "fused", "1")
    assert zero["collectives"] == []
    assert zero["skipped"] == 0
