"""What docs/symptoms.md quotes is what the runs say, but for their numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "symptoms.md").read_text()
QUOTED = [
    line
    for block in re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if line.startswith(("!", "step"))
]


def without_numbers(line: str) -> str:
    """The words of a line; of a leak those of what grew most."""
    return re.sub(r"-?\d[\d.,e+-]*%?", "N", line).partition("; N more of")[0]


def test_the_page_quotes_what_the_runs_say(tmp_path: Path, run_program: Callable[..., Any]) -> None:
    script = ROOT / "examples" / "03_symptoms.py"
    ended = run_program(script, "--folder", str(tmp_path), folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    said = {without_numbers(line) for line in ended.stdout.splitlines()}
    assert len(QUOTED) > 12
    for line in QUOTED:
        assert without_numbers(line) in said, line
    names = re.findall(r"== (\w+)", ended.stdout)
    assert len(names) == len(re.findall(r"^## ", PAGE, re.MULTILINE)) == 6
