"""Runs without any drop-in, each done once, for those with one to be compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .running import Outcome, run
from .scenarios import SCENARIOS


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Outcome]:
    """The outcome of a scenario, with these arguments of the Trainer and nothing of ours."""
    known: dict[str, Outcome] = {}

    def found(name: str, **trainer: Any) -> Outcome:
        key = f"{name} {sorted(trainer.items())}"
        if key not in known:
            known[key] = run(SCENARIOS[name], tmp_path_factory.mktemp("bare"), **trainer)
        return known[key]

    return found
