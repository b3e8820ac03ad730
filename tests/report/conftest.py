"""Logs as runs leave them."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from lightning_arrcoc.loggers.jsonl_file import JsonlFile

BEGUN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
NOW = BEGUN + timedelta(hours=2)

STARTED: dict[str, Any] = {
    "host": "somewhere",
    "git": {"commit": "0123456789abcdef", "dirty": True},
    "versions": {"torch": "2.13.0", "lightning": "2.6.6"},
    "hardware": {"cpu": "x86_64", "cores": 8, "memory_bytes": 2**34, "gpus": ["H200", "H200"]},
    "parameters": {"all": 1000, "trainable": 10},
}

Write = Callable[..., Path]


def line(event: str, step: float | None, **fields: Any) -> dict[str, Any]:
    time = BEGUN + timedelta(seconds=step or 0)
    return {
        "time": time.isoformat(timespec="microseconds"), "level": "INFO", "rank": 0, "step": step,
        "epoch": 0, "phase": "train", "event": event, **fields,
    }  # fmt: skip


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write the log of a run whose validation loss falls, with what else is given."""

    def written(
        name: str = "one", *events: dict[str, Any], points: int = 60, ended: bool = True,
        config: dict[str, Any] | None = None, offset: float = 0.0, **metrics: Any,
    ) -> Path:  # fmt: skip
        file = JsonlFile(tmp_path / name / "log.jsonl")
        file.append(line("run/config", None, config=config or {"lr": 0.1}))
        file.append(line("run/started", 0, **STARTED))
        for step in range(points):
            logged = {"train/loss": math.exp(-step / 20) + offset, **metrics}
            if step % 10 == 9:
                logged["val/loss"] = 1 / step + offset
            file.append(line("metrics", step, metrics=logged))
        for event in events:
            file.append(event)
        if ended:
            file.append(line("run/ended", points, status="success", reason=None))
        file.close()
        return file.path.parent

    return written
