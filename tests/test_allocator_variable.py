"""The command line has torch's allocator fit its segments, unless it was told otherwise."""

from __future__ import annotations

import os
import sys

import pytest

from lightning_arrcoc import cli


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}),
        ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}, {}),
        ({"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}, {}),
    ],
)
def test_it_is_set_unless_it_is_set(
    given: dict[str, str], expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in cli.ALLOCATOR:
        monkeypatch.setenv(name, "")  # so that it comes back
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["lightning_arrcoc", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    found = {name: os.environ[name] for name in cli.ALLOCATOR if name in os.environ}
    assert found == given | expected
