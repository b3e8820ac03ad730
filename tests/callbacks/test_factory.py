"""The entry point adds nothing, or the safe set, to every Trainer of an environment."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.fabric.utilities import registry
from lightning.pytorch.demos.boring_classes import BoringModel

from lightning_arrcoc.callbacks import GradientMonitor, MemoryGuard, MemoryMonitor, OOMGuard
from lightning_arrcoc.callbacks.factory import VARIABLE, wanted

if sys.version_info >= (3, 11):
    import tomllib
GROUP = "lightning.pytorch.callbacks_factory"
TARGET = "lightning_arrcoc.callbacks.factory:wanted"
SAFE = [GradientMonitor, MemoryMonitor, MemoryGuard, OOMGuard]


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this package alone were installed, without the variable."""
    ours = EntryPoint("lightning_arrcoc", TARGET, GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [ours] * (group == GROUP))
    monkeypatch.delenv(VARIABLE, raising=False)


def trainer(folder: Path, *callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    return pl.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=1, default_root_dir=folder,
        callbacks=[*callbacks], **settings,
    )  # fmt: skip


def ours(found: pl.Trainer) -> list[type]:
    """Classes of this package among the callbacks, in order."""
    callbacks: list[Any] = found.callbacks  # type: ignore[attr-defined]
    return [type(one) for one in callbacks if type(one).__module__.startswith("lightning_arrcoc")]


def test_it_adds_nothing_unless_asked(tmp_path: Path) -> None:
    found = trainer(tmp_path)
    found.fit(BoringModel())
    assert ours(found) == []


def test_it_imports_nothing_where_it_adds_nothing() -> None:
    code = (
        "import sys; from lightning_arrcoc.callbacks.factory import wanted; assert wanted() == []; "
        "print(sorted({'torch', 'lightning', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_word_is_answered_with_those_there_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(VARIABLE, "everything")
    with pytest.raises(ValueError, match=f"{VARIABLE}='everything'; expected safe, or leave it"):
        trainer(tmp_path)


def test_the_safe_set_lives_through_runs_and_stands_before_checkpoints(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(VARIABLE, "safe")
    found = trainer(tmp_path)
    for steps in (2, 4):
        found.fit_loop.epoch_loop.max_steps = steps
        found.fit(BoringModel())
        assert ours(found)[1:] == SAFE
    found.validate(BoringModel(), verbose=False)
    assert ours(found)[1:] == SAFE
    assert isinstance(found.callbacks[-1], pl.callbacks.ModelCheckpoint)  # type: ignore[attr-defined]
    states = found.strategy.load_checkpoint(found.checkpoint_callback.best_model_path)["callbacks"]
    assert any(key.startswith("GradientMonitor") for key in states)


def test_what_a_project_has_itself_is_not_added_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class MyGuard(OOMGuard):
        pass

    monkeypatch.setenv(VARIABLE, "safe")
    own = GradientMonitor("skip"), MyGuard()
    found = trainer(tmp_path, *own)
    found.fit(BoringModel())
    callbacks: list[Any] = found.callbacks  # type: ignore[attr-defined]
    assert [one for one in callbacks if isinstance(one, GradientMonitor | OOMGuard)] == [*own]
    assert {MemoryMonitor, MemoryGuard} <= set(ours(found))


def test_it_is_registered_where_lightning_looks() -> None:
    if sys.version_info < (3, 11):
        pytest.skip("reads pyproject.toml with tomllib")
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"] == {GROUP: {"lightning_arrcoc": TARGET}}
    assert wanted() == []
