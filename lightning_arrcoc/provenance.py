"""Where a run comes from: machine, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch


def describe_run() -> dict[str, Any]:
    """What does not change while a run lasts: versions, host, commit."""
    return {
        "host": platform.node(),
        "git": git_state(),
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "lightning": str(pl.__version__),
            "numpy": str(np.__version__),
        },
    }


def git_state() -> dict[str, Any] | None:
    """Commit of the working folder, and whether files differ from it; None outside git."""

    def ask(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], capture_output=True, text=True, timeout=10, check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )  # fmt: skip
        return done.stdout.strip()

    try:
        return {
            "commit": ask("rev-parse", "HEAD"),
            "dirty": bool(ask("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None
