"""Two processes save their halves with FSDP2, and go on from what both finished."""

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
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.fsdp import fully_shard
from lightning_arrcoc.callbacks import AtomicCheckpoint

class Model(BoringModel):
    def configure_model(self):
        fully_shard(self.layer, mesh=self.device_mesh["data_parallel"])

    def on_train_start(self):
        print("begins at", self.global_step)

saver = AtomicCheckpoint(sys.argv[1], "{step}", every_n_train_steps=2, save_top_k=-1)
pl.Trainer(
    max_steps=int(sys.argv[2]), accelerator="cpu", devices=2,
    strategy=ModelParallelStrategy(save_distributed_checkpoint=True), logger=False,
    limit_val_batches=0, enable_progress_bar=False, enable_model_summary=False, callbacks=[saver],
).fit(Model(), ckpt_path="last_verified")
"""


@pytest.fixture
def run(tmp_path: Path, run_program: Callable[..., Any]) -> Callable[..., Any]:
    def run(steps: int) -> Any:
        (tmp_path / "script.py").write_text(SCRIPT)
        words = str(tmp_path / "saved"), str(steps)
        done = run_program(tmp_path / "script.py", *words, ranks=2)
        assert done.returncode == 0, done.stderr[-2000:]
        return done

    return run


def test_a_run_goes_on_from_the_last_folder_that_all_ranks_finished(
    tmp_path: Path, run: Callable[..., Any]
) -> None:
    run(6)
    two, four, six = (tmp_path / "saved" / f"step={step}.ckpt" for step in (2, 4, 6))
    marker = verify_folder(two)
    assert marker is not None
    assert {"__0_0.distcp", "__1_0.distcp"} <= set(marker["files"])
    half = four / "__1_0.distcp"
    half.write_bytes(half.read_bytes()[:-1])
    (six / MARKER).unlink()  # as if the power had gone before it was written
    six.with_name(f".{six.name}.begun").touch()
    resumed = run(3)
    assert resumed.stdout.count("begins at 2") == 2
    names = sorted(path.name for path in (tmp_path / "saved").iterdir())
    assert names == ["step=2.ckpt", "step=4.ckpt.corrupt"]
