"""The example for SLURM, with `srun` and `scontrol` played by a few lines of shell."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "slurm" / "train.sbatch"
SRUN = """#!/bin/bash
# As srun does it: one process a task, with what Lightning reads of it.
shift  # --kill-on-bad-exit
code=0
for task in 0 1; do SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NODEID=0 "$@" & done
while [ "$(jobs -r | wc -l)" -gt 0 ]; do wait -n || code=$?; done
exit $code
"""
SETTINGS = {
    "SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "arr-coc", "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_NODELIST": "localhost",
}  # fmt: skip


def play(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("code", [0, 2, 143])
def test_only_a_run_that_was_told_to_end_goes_back_to_the_queue(code: int, tmp_path: Path) -> None:
    play(tmp_path, "srun", f'#!/bin/bash\necho "$@" > {tmp_path}/words\nexit {code}\n')
    play(tmp_path, "scontrol", f'#!/bin/bash\necho "$@" > {tmp_path}/queue\n')
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(SCRIPT), "seed=3"], env={**os.environ, **SETTINGS, "PATH": path}, cwd=tmp_path
    )
    assert done.returncode == code
    words = (tmp_path / "words").read_text()
    assert "trainer.devices=2 trainer.num_nodes=1" in words
    assert words.endswith("ckpt=last_verified seed=3\n")
    requeued = tmp_path / "queue"
    assert requeued.exists() == (code == 143)
    assert not requeued.exists() or requeued.read_text() == "requeue 4711\n"


@pytest.mark.slow
def test_its_words_train_in_the_processes_that_srun_starts(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    play(tmp_path, "srun", SRUN)
    play(tmp_path, "python", f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    path = f"{tmp_path}:{os.environ['PATH']}"
    words = ["trainer.accelerator=cpu", "trainer.precision=32-true", "experiment=debug"]
    done = subprocess.run(
        ["bash", str(SCRIPT), *words, "data.test=null", "logger=none"],
        env={**os.environ, **SETTINGS, "PATH": path, "MASTER_PORT": port},
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "outputs" / "arr-coc-4711" / "checkpoints" / "last.ckpt").is_file()
    assert "MEMBER: 2/2" in done.stderr
