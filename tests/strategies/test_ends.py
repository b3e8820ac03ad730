"""However one of two processes ends, the other does not wait, and a checkpoint is sound."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_arrcoc.callbacks.last_verified import find_last_verified

PATIENCE_S = 60
SCRIPT = """
import os, signal, sys, time
import lightning.pytorch as pl
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning_arrcoc.callbacks import AtomicCheckpoint

what, rank = sys.argv[2], int(os.environ["LOCAL_RANK"])


class Act(pl.Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 3 and what == f"SIGKILL {rank}":
            os.kill(os.getpid(), signal.SIGKILL)
        if trainer.global_step == 3 and what == f"SIGTERM {rank}":
            os.kill(os.getpid(), signal.SIGTERM)


pl.Trainer(
    max_steps=12, accelerator="cpu", devices=2, strategy="ddp", logger=False, limit_val_batches=0,
    enable_progress_bar=False, enable_model_summary=False,
    callbacks=[Act(), AtomicCheckpoint(sys.argv[1], "{step}", every_n_train_steps=2)],
).fit(BoringModel())
print("was not ended")
"""


@pytest.fixture
def run(tmp_path: Path, run_program: Callable[..., Any]) -> Callable[[str], Any]:
    def run(what: str) -> Any:
        (tmp_path / "script.py").write_text(SCRIPT)
        words = str(tmp_path / "saved"), what
        return run_program(tmp_path / "script.py", *words, ranks=2, patience_s=PATIENCE_S)

    return run


@pytest.mark.parametrize("killed", [0, 1])
def test_when_one_is_killed_the_other_ends_with_its_error(
    killed: int, tmp_path: Path, run: Callable[[str], Any]
) -> None:
    done = run(f"SIGKILL {killed}")
    assert done.returncode != 0
    assert "was not ended" not in done.stdout
    assert "Connection" in done.stderr
    found = find_last_verified(str(tmp_path / "saved"))
    assert found is not None
    assert torch.load(found, weights_only=True)["global_step"] in (2, 3)


@pytest.mark.parametrize("asked", [0, 1])
def test_sigterm_to_one_ends_both_after_one_save(
    asked: int, tmp_path: Path, run: Callable[[str], Any]
) -> None:
    done = run(f"SIGTERM {asked}")
    assert "was not ended" not in done.stdout
    assert "Error" not in done.stderr
    names = sorted(path.name for path in (tmp_path / "saved").iterdir())
    assert names == ["emergency-step=5.ckpt", "step=4.ckpt"]  # agreed a step later
    saved = torch.load(tmp_path / "saved" / names[0], weights_only=True)
    assert set(saved["lightning_arrcoc"]["rng"]) == {"0", "1"}
