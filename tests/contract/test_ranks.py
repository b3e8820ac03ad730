"""Two processes under DDP: all drop-ins, one after the other, in the same two."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .registry import PIECES

PROGRAM = Path(__file__).parent / "ranks.py"


def test_each_runs_in_two_processes_with_the_weights_of_a_run_without(
    run_program: Callable[..., Any], tmp_path: Path
) -> None:
    done = run_program(PROGRAM, str(tmp_path), ranks=2, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    zero, one = (json.loads(printed.splitlines()[-1]) for printed in done.printed)
    assert zero.keys() == one.keys() > PIECES.keys()
    for key, piece in PIECES.items():
        if "two processes" in piece.refuses:
            assert piece.refuses["two processes"] in zero[key]
        else:
            assert zero[key] == one[key] == zero[f"without {key}"], key
