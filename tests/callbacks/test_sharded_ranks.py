"""Two processes save their halves with FSDP, and go on from what both finished."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_arrcoc.plugins.sharded import MARKER, verify_folder

SCRIPT = """
import sys
import lightning.pytorch as pl
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from lightning_arrcoc.callbacks import AtomicCheckpoint

kind = sys.argv[3]

class Model(BoringModel):
    def configure_model(self):
        if kind == "fsdp2":
            fully_shard(self.layer, mesh=self.device_mesh["data_parallel"])

    def configure_optimizers(self):  # one with a state, without which FSDP1 cannot be resumed
        return torch.optim.AdamW(self.layer.parameters())

    def on_train_start(self):
        print("begins at", self.global_step)

class OnCpu(FSDPStrategy):
    # FSDP1 wants the device itself where there is no accelerator; Lightning hands on its number.
    def _setup_model(self, model):
        return FullyShardedDataParallel(
            model, mixed_precision=self.mixed_precision_config, device_id=torch.device("cpu"),
            sharding_strategy=self.sharding_strategy, **self.kwargs,
        )

strategy = {
    "fsdp1": lambda: OnCpu(process_group_backend="gloo", state_dict_type="sharded"),
    "fsdp2": lambda: ModelParallelStrategy(save_distributed_checkpoint=True),
}[kind]()
saver = AtomicCheckpoint(sys.argv[1], "{step}", every_n_train_steps=2, save_top_k=-1)
pl.Trainer(
    max_steps=int(sys.argv[2]), accelerator="cpu", devices=2,
    strategy=strategy, logger=False,
    limit_val_batches=0, enable_progress_bar=False, enable_model_summary=False, callbacks=[saver],
).fit(Model(), ckpt_path="last_verified")
"""


@pytest.fixture
def run(tmp_path: Path, run_program: Callable[..., Any]) -> Callable[..., Any]:
    def run(kind: str, steps: int) -> Any:
        (tmp_path / "script.py").write_text(SCRIPT)
        words = str(tmp_path / "saved"), str(steps), kind
        done = run_program(tmp_path / "script.py", *words, ranks=2)
        assert done.returncode == 0, done.stderr[-2000:]
        return done

    return run


@pytest.mark.parametrize("kind", ["fsdp1", "fsdp2"])
def test_a_run_goes_on_from_the_last_folder_that_all_ranks_finished(
    kind: str, tmp_path: Path, run: Callable[..., Any]
) -> None:
    run(kind, 6)
    two, four, six = (tmp_path / "saved" / f"step={step}.ckpt" for step in (2, 4, 6))
    marker = verify_folder(two)
    assert marker is not None
    assert {"__0_0.distcp", "__1_0.distcp"} <= set(marker["files"])
    half = four / "__1_0.distcp"
    half.write_bytes(half.read_bytes()[:-1])
    (six / MARKER).unlink()  # as if the power had gone before it was written
    six.with_name(f".{six.name}.begun").touch()
    resumed = run(kind, 3)
    assert resumed.stdout.count("begins at 2") == 2
    names = sorted(path.name for path in (tmp_path / "saved").iterdir())
    assert names == ["step=2.ckpt", "step=4.ckpt.corrupt"]
