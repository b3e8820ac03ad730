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


def test_speed_of_stock_and_both_modes_is_told_beside_the_limit(tmp_path: Path) -> None:
    printed = run(
        tmp_path, "speed.py", "--backbone", "tiny", "--size", "128", "--budgets", "2", "5",
        "--repeats", "2", "--device", "cpu", "--threads", "1", "--json", "found.json",
    )  # fmt: skip
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["cells"] == 16
    rows = {(row["job"], row["variant"], row["budget"]): row for row in found["rows"]}
    modes = [("stock", None)]
    modes += [(mode, k) for mode in ("after_vision", "before_vision") for k in (2, 5)]
    assert list(rows) == [(job, *mode) for job in ("prefill", "step") for mode in modes]
    for job in ("prefill", "step"):
        limits = [rows[(job, *mode)]["limit_of_stock"] for mode in modes]
        stock, after_2, after_5, before_2, before_5 = limits
        assert stock == 1 > after_5 > after_2 > before_5 > before_2 > 0
    for row in rows.values():
        assert row["turns"] == 2
        assert 0 < row["min_s"] <= row["median_s"] <= row["max_s"]
        assert 0 < row["choosing_share"] + row["tower_share"] < 1
        assert f"{row['of_stock']:.3f}" in printed
    assert "target" not in printed  # they are those of 2B dimensions
