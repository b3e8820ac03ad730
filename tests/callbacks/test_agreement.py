"""Two processes save at the same step, whichever of them was asked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

SCRIPT = """
import sys
import lightning.pytorch as pl
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning_arrcoc.callbacks import AtomicCheckpoint

class Act(pl.Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 2 and trainer.global_rank == 1:
            if sys.argv[2] == "ask":
                trainer.checkpoint_callback.request_save("memory critical")
            else:
                raise RuntimeError("rank one's own error")

pl.Trainer(
    max_steps=6, accelerator="cpu", devices=2, strategy="ddp", logger=False, limit_val_batches=0,
    enable_progress_bar=False, enable_model_summary=False,
    callbacks=[AtomicCheckpoint(sys.argv[1], save_top_k=0), Act()],
).fit(BoringModel())
"""


def run(folder: Path, what: str) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(SCRIPT)
    return subprocess.run(
        [sys.executable, str(folder / "script.py"), str(folder / "saved"), what],
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip


def test_a_request_of_one_rank_is_saved_by_all_together(tmp_path: Path) -> None:
    done = run(tmp_path, "ask")
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = (tmp_path / "saved").iterdir()
    saved = torch.load(path, weights_only=True)
    assert path.name == "emergency-step=4.ckpt"  # agreed a step later
    assert set(saved["lightning_arrcoc"]["rng"]) == {"0", "1"}


def test_when_one_rank_fails_its_error_is_shown_and_nobody_waits(tmp_path: Path) -> None:
    done = run(tmp_path, "fail")
    assert done.returncode != 0
    assert "rank one's own error" in done.stderr
