"""One program among others that a test starts, where all they import is imported already.

A fresh interpreter imports torch, Lightning and transformers for ten seconds. The fixture
`programs` forks from a process that has them, and runs this file there, which runs the program.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import sys
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_only


def begin(
    command: list[str], environment: dict[str, str], folder: str, outputs: tuple[str, str]
) -> None:
    """As `subprocess.run` would, with outputs that go to two files."""
    for number, path in enumerate(outputs, start=1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(file, number)
        os.close(file)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    multiprocessing.set_start_method(None, force=True)  # not that of the process it was forked by
    os.environ.clear()
    os.environ.update(environment)
    rank_zero_only.rank = int(environment.get("LOCAL_RANK", 0))  # as found when it is imported
    os.chdir(folder)
    sys.argv = list(command)
    sys.path[:0] = [str(Path(command[0]).parent)]
    try:
        runpy.run_path(command[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # a forked process leaves without


if __name__ == "warm":
    begin(**globals()["GIVEN"])
