"""A card tells what the run's own files say, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_arrcoc import ArrCocQwen3VL
from lightning_arrcoc.export.measured import measured

RESULTS = {
    "budgets": [0.25, 0.1],
    "exact_match": {
        "full": [{"exact_match": 0.98, "tokens": 144.0}],
        "ARR-COC": [{"exact_match": 0.97, "tokens": 36.0}, {"exact_match": 0.913, "tokens": 14.0}],
    },
}


def test_without_files_there_is_nothing(checkpoint: Path) -> None:
    assert measured(checkpoint) is None


def test_results_log_and_what_was_saved_along_are_told(
    model: ArrCocQwen3VL, save: Callable[..., Path], tmp_path: Path
) -> None:
    path = save(model, tmp_path / "checkpoints" / "last.ckpt", **{"val/exact_match": 0.875})
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    lines = [
        {"event": "metrics", "step": 5, "metrics": {"val/kept": 0.2, "train/loss": 1.0}},
        {"event": "metrics", "step": 9, "metrics": {"val/kept": 0.1}},
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    card = str(measured(path))
    assert "val/exact_match 0.875" in card
    assert "| full | 98.0 (144) |  |  |" in card
    assert "| ARR-COC |  | 97.0 (36) | 91.3 (14) |" in card
    assert "| val/kept | 0.1 | 9 |" in card
    assert "train/loss" not in card


def test_results_of_other_weights_are_left_out(
    model: ArrCocQwen3VL, save: Callable[..., Path], tmp_path: Path
) -> None:
    path = save(model, tmp_path / "checkpoints" / "best.ckpt")
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    card = str(measured(path))
    assert "left out" in card
    assert "98.0" not in card


@pytest.mark.parametrize("content", ["{", "[]", '{"budgets": [1], "exact_match": {"a": [{}]}}'])
def test_results_that_cannot_be_read_are_left_out(
    content: str, model: ArrCocQwen3VL, save: Callable[..., Path], tmp_path: Path
) -> None:
    path = save(model, tmp_path / "checkpoints" / "last.ckpt")
    (tmp_path / "results.json").write_text(content)
    assert "could not be read" in str(measured(path))
