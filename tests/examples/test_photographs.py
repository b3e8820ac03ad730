"""The example on photographs runs end to end, and its answers are what the pixels say."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("skimage")
SCRIPT = Path(__file__).parents[2] / "examples" / "01_photographs.py"


@pytest.fixture
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("photographs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_fits_on_a_folder_of_photographs(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    short = ["--backbone-steps", "1", "--steps", "1", "--cuttings", "8"]
    monkeypatch.setattr(sys, "argv", ["01_photographs.py", "--folder", str(tmp_path), *short])
    example.main()
    printed = capsys.readouterr().out
    assert "2 tokens (12%)" in printed
    assert "ARR-COC" in printed
    with Image.open(tmp_path / "kept.png") as picture:
        assert min(picture.size) > 500


def test_its_answers_are_those_of_the_pixels(example: ModuleType, tmp_path: Path) -> None:
    """Computed another way: the brightness of a corner shrunk to a single pixel."""
    example.write_split(tmp_path, "test", 12)
    boxes = {
        "top left": (0, 0, 64, 64), "top right": (64, 0, 128, 64),
        "bottom left": (0, 64, 64, 128), "bottom right": (64, 64, 128, 128),
    }  # fmt: skip
    lines = (tmp_path / "test.jsonl").read_text().splitlines()
    assert len(lines) == 12
    for line in map(json.loads, lines):
        grey = Image.open(tmp_path / line["image"]).convert("L")
        (box,) = [box for corner, box in boxes.items() if corner in line["question"]]
        mean = np.asarray(grey.resize((1, 1), Image.Resampling.BOX, box)).item()
        assert line["answer"] == ("yes" if mean > 112 else "no")


def test_no_photograph_is_in_two_splits(example: ModuleType) -> None:
    assert not set(example.PHOTOGRAPHS["train"]) & set(example.PHOTOGRAPHS["test"])
