"""Runs of every kind, with and without each drop-in: same weights, same draws, nothing left."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from .registry import PIECES
from .running import Outcome, compare, expected_of, run
from .scenarios import SCENARIOS

Bare = Callable[..., Outcome]
pytestmark = pytest.mark.filterwarnings(
    "ignore:You requested to overfit but enabled train dataloader shuffling",
    "ignore:`training_step` returned `None`",
)  # of scenarios that do so


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("key", PIECES)
def test_it_changes_nothing_and_leaves_nothing(
    key: str, name: str, bare: Bare, tmp_path: Path
) -> None:
    piece, scenario = PIECES[key], SCENARIOS[name]
    if name in piece.refuses:
        with pytest.raises(MisconfigurationException, match=piece.refuses[name]):
            run(scenario, tmp_path, **piece.settings(tmp_path))
        return
    without = bare(name, **piece.trainer)
    found = run(scenario, tmp_path, **piece.settings(tmp_path))
    if name in piece.ends_later:
        assert found.changed.keys() - {"modes"} == expected_of(found, without).keys() - {"modes"}
    else:
        compare(found, without)
    assert [
        path for path in tmp_path.rglob("*") if path.is_file()
        and not any(fnmatch(str(path.relative_to(tmp_path)), glob) for glob in piece.files)
    ] == []  # fmt: skip
