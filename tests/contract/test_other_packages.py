"""Fabric, and the Trainer of the package pytorch_lightning: supported, or refused in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.fabric import Fabric
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_arrcoc.callbacks.for_trainer import HOOKS
from lightning_arrcoc.loggers import JsonlLogger
from lightning_arrcoc.loggers.jsonl_file import read_lines

from .registry import PIECES, placed
from .scenarios import QUIET, Plain

CALLBACKS = [key for key, piece in PIECES.items() if placed([piece.make(Path())])["callbacks"]]
PLUGINS = [key for key, piece in PIECES.items() if placed([piece.make(Path())])["plugins"]]


@pytest.mark.parametrize("key", CALLBACKS)
@pytest.mark.parametrize("hook", ["on_train_start", "on_train_batch_end", "on_test_epoch_end"])
def test_fabric_is_told_that_a_callback_is_for_a_trainer(
    key: str, hook: str, tmp_path: Path
) -> None:
    fabric = Fabric(accelerator="cpu", devices=1, callbacks=[PIECES[key].make(tmp_path)])
    calls: list[Any] = [((), {}), ((), {"loss": 1.0}), ((fabric, Plain()), {}), ((1, 2, 3), {})]
    for arguments, named in calls:
        with pytest.raises(
            MisconfigurationException, match=r"works with lightning.pytorch.Trainer.*Fabric"
        ):
            fabric.call(hook, *arguments, **named)


@pytest.mark.parametrize("key", CALLBACKS)
def test_every_hook_asks_who_calls(key: str, tmp_path: Path) -> None:
    made = PIECES[key].make(tmp_path)
    assert len(HOOKS) > 30
    for hook in HOOKS:
        with pytest.raises(MisconfigurationException, match=type(made).__name__):
            getattr(made, hook)()


def test_fabric_logs_with_the_logger(tmp_path: Path) -> None:
    logger = JsonlLogger(tmp_path)
    fabric = Fabric(accelerator="cpu", devices=1, loggers=logger)
    fabric.log_dict({"loss": 1.5}, step=3)
    logger.finalize("success")
    (line,) = [line for line in read_lines(logger.path) if line["event"] == "metrics"]
    assert (line["step"], line["metrics"]) == (3, {"loss": 1.5})


@pytest.fixture
def other() -> Any:
    return pytest.importorskip("pytorch_lightning")


def fit(other: Any, folder: Path, made: Any) -> None:
    from pytorch_lightning.demos.boring_classes import BoringModel

    settings = {**QUIET, "default_root_dir": folder, "num_sanity_val_steps": 0, **placed([made])}
    other.Trainer(**{**settings, "max_steps": 2}).fit(BoringModel())


@pytest.mark.parametrize("key", CALLBACKS)
def test_the_other_packages_trainer_is_refused_by_callbacks(
    key: str, tmp_path: Path, other: Any
) -> None:
    with pytest.raises(MisconfigurationException, match=r"import lightning\.pytorch as pl"):
        fit(other, tmp_path, PIECES[key].make(tmp_path))


@pytest.mark.parametrize("key", PLUGINS)
def test_the_other_packages_trainer_refuses_plugins_itself(
    key: str, tmp_path: Path, other: Any
) -> None:
    refusal = other.utilities.exceptions.MisconfigurationException
    with pytest.raises(refusal, match="invalid type for plugin"):
        fit(other, tmp_path, PIECES[key].make(tmp_path))


def test_the_other_packages_trainer_logs_with_the_logger(tmp_path: Path, other: Any) -> None:
    logger = JsonlLogger(tmp_path)
    fit(other, tmp_path, logger)
    lines = list(read_lines(logger.path))
    assert [line["event"] for line in lines if "run/" in line["event"]] == [
        "run/started", "run/ended",
    ]  # fmt: skip
    assert lines[-1]["step"] == 2
    assert issubclass(type(logger), pl.loggers.Logger)
