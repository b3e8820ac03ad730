"""Benchmarks run from any folder and say what they measured; no figure is judged here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "examples" / "benchmarks"


def run(folder: Path, script: str, *arguments: str) -> str:
    """What the script prints, started in a folder of its own."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_selectors_are_compared_by_family_and_budget(tmp_path: Path) -> None:
    printed = run(
        tmp_path, "compare_selectors.py",
        "--seeds", "2", "--questions", "8", "--batch", "4", "--budgets", "0.25", "0.05",
        "--json", "found.json",
        "trainer.max_steps=2", "trainer.val_check_interval=2", "data.val.length=4",
        "data.val_batch_size=4", "data.batch_size=2", "data.num_workers=0",
    )  # fmt: skip
    found = json.loads((tmp_path / "found.json").read_text())
    names = {row["selector"] for row in found["results"]}
    assert len(names) == 11
    assert {row["budget"] for row in found["results"]} == {1.0, 0.25, 0.05}
    for row in found["results"]:
        assert 0 <= row["read off"]["mean"] <= 100
        assert row["ms"]["mean"] > 0
    assert found["seeds"] == 2
    assert all(name in printed for name in names)


def test_textures_are_timed_group_by_group(tmp_path: Path) -> None:
    printed = run(tmp_path, "textures.py", "--size", "64", "--repeats", "2", "--json", "found.json")
    assert (tmp_path / "found.json").exists()
    assert "core" in printed
    assert "full" in printed
