"""The largest batch that fits is found with few trials, and none that is sure to fail."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_arrcoc.doctor.batch import Trial, search


def attempt(per_sample: int, base: int = 100, room: int = 10**9) -> Callable[[int], int | None]:
    """Memory in proportion, and an end to it."""

    def run(samples: int) -> int | None:
        peak = base + per_sample * samples
        return None if peak > room else peak

    return run


@pytest.mark.parametrize("budget", [110, 200, 456, 1000, 3333])
def test_the_largest_is_found_to_a_sixteenth(budget: int) -> None:
    exact = (budget - 100) // 10
    found = search(attempt(10), "train", budget, 10_000, [])
    assert exact - max(1, exact // 16) <= found <= exact


def test_one_that_is_sure_to_be_too_large_is_not_run() -> None:
    tried: list[Trial] = []
    ran: list[int] = []

    def run(samples: int) -> int | None:
        ran.append(samples)
        return attempt(10)(samples)

    search(run, "train", 1000, 10_000, tried)
    assert max(ran) <= 90
    assert [one.samples for one in tried if one.peak is None] == [128, 96, 92]


def test_memory_that_runs_out_before_the_budget_is_endured() -> None:
    def cliff(samples: int) -> int | None:
        return None if samples > 21 else 100

    assert search(cliff, "train", 1000, 10_000, []) in (20, 21)


def test_no_more_are_tried_than_asked_for() -> None:
    tried: list[Trial] = []
    assert search(attempt(0), "validation", 1000, 50, tried) == 50
    assert [one.samples for one in tried] == [1, 2, 4, 8, 16, 32, 50]
    assert {one.phase for one in tried} == {"validation"}


def test_where_one_sample_is_too_many_there_is_none() -> None:
    tried: list[Trial] = []
    assert search(attempt(10), "train", 100, 50, tried) == 0
    assert tried == [Trial("train", 1, 110, False)]


def test_ranks_agree_on_what_fits_all_of_them(together: Any) -> None:
    out = together("""
        from lightning_arrcoc.doctor.batch import search
        def attempt(samples):
            return 100 + (10, 30)[rank] * samples
        print(search(attempt, "train", 1000, 10_000, []))
    """)
    assert out[0] == out[1]
    assert 28 <= int(out[0]) <= 30


def doctor(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable, "-m", "lightning_arrcoc", "doctor", "batch", "data.train.turns=1",
            "data.val.turns=1", "data.train.digits=2", "data.val.digits=2", *words,
        ],
        capture_output=True, text=True, timeout=280, check=False, cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip


def test_it_names_both_batches_ready_to_type(tmp_path: Path) -> None:
    done = doctor(tmp_path, "most=2")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Best: data.batch_size=2 data.val_batch_size=2" in done.stdout
    rows = re.findall(r"(train|validation) +│ +(\d+) +│ +([\d.]+) +│ yes", done.stdout)
    assert [row[:2] for row in rows] == [
        ("train", "1"), ("train", "2"), ("validation", "1"), ("validation", "2"),
    ]  # fmt: skip
    assert all(0.1 < float(row[2]) < 64 for row in rows)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "says"),
    [("headroom=1.5", "a share from 0 to below 1"), ("most=0", "most=0; expected 1 or more")],
)
def test_what_makes_no_sense_is_one_line(tmp_path: Path, word: str, says: str) -> None:
    done = doctor(tmp_path, word)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert says in done.stderr


@pytest.mark.gpu
def test_on_a_gpu_a_batch_that_fits_really_does(tmp_path: Path) -> None:
    done = doctor(tmp_path, "trainer=gpu", "most=64")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Best: data.batch_size=" in done.stdout
