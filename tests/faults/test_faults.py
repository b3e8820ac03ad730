"""What a machine can do to a checkpoint, and that the tests see what ours prevents."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def run(script: str, *words: str, mib: int = 1) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, str(HERE / script), *words],
        env={
            **os.environ,
            "PYTHONPATH": str(HERE.parents[1]),
            "CHECKPOINT_MIB": str(mib),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("kills", [25, pytest.param(1000, marks=pytest.mark.slow)])
def test_killed_at_any_moment_nothing_is_torn_or_lost(kills: int, tmp_path: Path) -> None:
    found = run("kill.py", "--kills", str(kills), "--folder", str(tmp_path))
    assert found["acknowledged"] > 0
    assert (found["torn"], found["lost"], found["left"]) == (0, 0, 0)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="TMPDIR has to be another file system")
def test_a_mutant_that_writes_to_tmpdir_is_torn(tmp_path: Path) -> None:
    """A negative control: the test above can fail."""
    found = run(
        "kill.py", "--kills", "40", "--saver", "by_tmpdir", "--folder", str(tmp_path), mib=4
    )
    assert found["torn"] > 0


def can_mount() -> bool:
    tools = all(any(Path(place, tool).exists() for place in ("/sbin", "/usr/sbin"))
                for tool in ("mkfs.ext4", "losetup"))  # fmt: skip
    return os.name == "posix" and os.geteuid() == 0 and tools and Path("/dev/loop-control").exists()


needs_loop = pytest.mark.skipif(not can_mount(), reason="needs root and loop devices")


@needs_loop
@pytest.mark.parametrize("cuts", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_after_a_power_cut_every_acknowledged_save_is_there(cuts: int) -> None:
    found = run("power_cut.py", "--cuts", str(cuts))
    assert found["acknowledged"] > 0
    assert (found["torn"], found["lost"]) == (0, 0)


@needs_loop
def test_a_mutant_without_fsync_loses_saves_to_a_power_cut() -> None:
    """A negative control: the test above can fail."""
    found = run("power_cut.py", "--cuts", "3", "--saver", "without_fsync")
    assert found["lost"] > 0
