"""The list of checkpoints."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from lightning_arrcoc import cli
from lightning_arrcoc.plugins.checkpoint_file import write_checkpoint
from lightning_arrcoc.plugins.manifest import STAMPS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for step in (3, 20):
        write_checkpoint(
            {
                "global_step": step,
                "state_dict": {"w": torch.ones(1000)},
                STAMPS: {"metrics": {"val/loss": step / 8}},
            },
            tmp_path / f"step={step}.ckpt",
        )
    return tmp_path


def called(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["lightning_arrcoc", "checkpoints", *words])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0)


def test_they_are_listed_by_step(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({}, folder / "stock.ckpt")
    assert called(monkeypatch, str(folder)) == 0
    shown = capsys.readouterr().out
    assert shown.index("step=3.ckpt") < shown.index("step=20.ckpt") < shown.index("stock.ckpt")
    assert "val/loss 0.375" in shown
    assert "no manifest" in shown


def test_a_damaged_one_is_found_by_reading_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray((folder / "step=3.ckpt").read_bytes())
    content[1000] ^= 1
    (folder / "step=3.ckpt").write_bytes(content)
    assert called(monkeypatch, str(folder)) == 0
    assert called(monkeypatch, str(folder), "--verify") == 1
    shown = capsys.readouterr().out
    assert "damaged: its content does not match its manifest" in shown
    assert "verified" in shown


def test_a_folder_that_is_not_there_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(monkeypatch, "nowhere") == 2
    assert "No folder at 'nowhere'" in capsys.readouterr().err
