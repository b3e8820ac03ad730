"""The example of five lines runs as a stranger would run it, and shows what each line gave."""

from __future__ import annotations

import logging
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("sklearn")
SCRIPT = Path(__file__).parents[2] / "examples" / "02_drop_in.py"


@pytest.fixture
def lightnings_log() -> Iterator[None]:
    """As it was afterwards: the example has it say less."""
    log = logging.getLogger("lightning.pytorch")
    before = log.level
    yield
    log.setLevel(before)


@pytest.mark.usefixtures("lightnings_log")
@pytest.mark.filterwarnings(  # what it is about
    "ignore:Step 12 is not finite",
    "ignore:OverfittingDetector",
)
def test_five_lines_save_the_run_and_tell_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--folder", str(tmp_path), "--epochs", "30"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    plain, found = capsys.readouterr().out.split("== The same with five lines")
    assert "step 300: validation loss nan" in plain
    for words in (
        "Memory on cpu", "verified, of step", "1 x batch/skipped", "1 step left out",
        "times the training loss", "1 x overfit/stopped",
    ):  # fmt: skip
        assert words in found
    assert list(tmp_path.glob("runs/version_0/checkpoints/best.ckpt"))
