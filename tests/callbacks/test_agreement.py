"""Two processes save at the same step, whichever of them was asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = """
import os, sys
import lightning.pytorch as pl
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning_arrcoc.callbacks import AtomicCheckpoint
from lightning_arrcoc.plugins import atomic_checkpoint_io

what, rank = sys.argv[2], int(os.environ.get("LOCAL_RANK", 0))
write = atomic_checkpoint_io.write_checkpoint


def broken(*_):
    raise OSError("no disk")


class Act(pl.Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if what == "disk":  # full at every other step
            full = trainer.global_step % 2
            atomic_checkpoint_io.write_checkpoint = broken if full else write
        elif trainer.global_step == 2 and what == f"ask {rank}":
            trainer.checkpoint_callback.request_save("memory critical")
        elif trainer.global_step == 2 and what == f"fail {rank}":
            raise RuntimeError("a rank's own error")

    def on_train_epoch_end(self, trainer, module):
        if what == f"fail {rank} at the end":  # when metrics of the epoch are computed
            raise RuntimeError("a rank's own error")


class Model(BoringModel):
    def training_step(self, batch, batch_idx):
        found = super().training_step(batch, batch_idx)
        self.log("loss", found["loss"], on_step=False, on_epoch=True, sync_dist=True)
        return found

saver = AtomicCheckpoint(
    sys.argv[1], "{step}", save_top_k=int(what == "disk"), every_n_train_steps=1,
    on_save_error="warn", max_save_errors=1,
)
pl.Trainer(
    max_steps=6, accelerator="cpu", devices=2, strategy="ddp", logger=False, limit_val_batches=0,
    limit_train_batches=6,
    enable_progress_bar=False, enable_model_summary=False, callbacks=[saver, Act()],
).fit(Model())
"""


@pytest.fixture
def run(tmp_path: Path, run_program: Callable[..., Any]) -> Callable[[str], Any]:
    def run(what: str) -> Any:
        (tmp_path / "script.py").write_text(SCRIPT)
        return run_program(tmp_path / "script.py", str(tmp_path / "saved"), what, ranks=2)

    return run


def test_a_request_of_one_rank_is_saved_by_all_together(
    tmp_path: Path, run: Callable[[str], Any]
) -> None:
    done = run("ask 1")
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = (tmp_path / "saved").iterdir()
    saved = torch.load(path, weights_only=True)
    assert path.name == "emergency-step=4.ckpt"  # agreed a step later
    assert set(saved["lightning_arrcoc"]["rng"]) == {"0", "1"}


@pytest.mark.parametrize(
    ("failing", "saved"),
    [("0", ["emergency-step=2.ckpt"]), ("1", None), ("0 at the end", ["emergency-step=6.ckpt"])],
)
def test_when_one_rank_fails_its_error_is_shown_and_nobody_waits(
    failing: str, saved: list[str] | None, tmp_path: Path, run: Callable[[str], Any]
) -> None:
    """Rank zero saves alone, without a collective that the other would never reach."""
    done = run(f"fail {failing}")
    assert done.returncode != 0
    assert "a rank's own error" in done.stderr
    assert saved in (None, [path.name for path in (tmp_path / "saved").glob("*")])


def test_all_ranks_count_failed_saves_alike(tmp_path: Path, run: Callable[[str], Any]) -> None:
    """Three fail, never two in a row, where one in a row is endured."""
    done = run("disk")
    assert done.returncode == 0, done.stderr[-2000:]
    assert [path.name for path in (tmp_path / "saved").iterdir()] == ["step=5.ckpt"]
