"""Trackers in real runs, none of which reaches for the network."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from omegaconf import OmegaConf
from PIL import Image

from lightning_arrcoc.assembling import ConfigRecord, make_loggers
from lightning_arrcoc.callbacks import AtomicCheckpoint
from lightning_arrcoc.cli import _finish_tracking
from lightning_arrcoc.loggers import JsonlLogger
from lightning_arrcoc.loggers.jsonl_file import LOG, read_lines
from lightning_arrcoc.loggers.pictures import log_picture
from lightning_arrcoc.provenance import git_state

ROOT = Path(__file__).parents[2]
SMALL = (
    "experiment=debug", "data.train.length=20", "data.test=null", "model.random_weights=true",
    "callbacks.latest.every_n_train_steps=1",
)  # fmt: skip


def fit(folder: Path, *words: str) -> str:
    """A command of its own, told to stay offline and to keep everything below the folder."""
    home = {name: str(folder / "home") for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR",
            "WANDB_CONFIG_DIR", "HOME")}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "lightning_arrcoc", "fit", *SMALL, *words], cwd=folder, text=True,
        env={**os.environ, **home, "WANDB_MODE": "offline", "PYTHONPATH": str(ROOT)},
        capture_output=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.rglob(pattern)
    return found


# ------------------------------------------------------------------------------- beside each other


class Noting(Logger):
    """Remembers what it was handed."""

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, Any] = {}
        self.saved: list[str] = []

    name, version = "noting", 0

    def log_metrics(self, metrics: Any, step: int | None = None) -> None: ...

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.config = dict(params)

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        self.saved.append(Path(checkpoint_callback.best_model_path).name)


def config_of(folder: Path, logger: Any) -> Any:
    return OmegaConf.create({"trainer": {"default_root_dir": str(folder)}, "logger": logger})


CSV = {"_target_": "lightning.pytorch.loggers.CSVLogger", "name": "", "version": "csv"}
JSONL = {"_target_": "lightning_arrcoc.loggers.JsonlLogger", "name": "", "version": ""}


def test_a_run_writes_its_own_log_beside_any_tracker(tmp_path: Path) -> None:
    chosen = CSV | {"save_dir": str(tmp_path)}
    csv, jsonl = make_loggers(config_of(tmp_path, chosen))
    assert isinstance(csv, CSVLogger)
    assert isinstance(jsonl, JsonlLogger)
    assert jsonl.path == tmp_path / LOG


def test_there_is_one_log_where_it_is_chosen_and_none_where_none_is(tmp_path: Path) -> None:
    (only_one,) = make_loggers(config_of(tmp_path, JSONL | {"save_dir": str(tmp_path)}))
    assert isinstance(only_one, JsonlLogger)
    assert make_loggers(config_of(tmp_path, {})) == []


def test_several_trackers_may_be_named(tmp_path: Path) -> None:
    csv = CSV | {"save_dir": str(tmp_path)}
    both = config_of(tmp_path, {"one": csv, "two": csv | {"version": "again"}})
    assert [type(logger).__name__ for logger in make_loggers(both)] == [
        "CSVLogger", "CSVLogger", "JsonlLogger",
    ]  # fmt: skip


def trainer(*loggers: Logger, **options: Any) -> pl.Trainer:
    usual: dict[str, Any] = {
        "max_steps": 2,
        "limit_train_batches": 2,
        "limit_val_batches": 1,
        "enable_checkpointing": False,
    }
    return pl.Trainer(
        **(usual | options), accelerator="cpu", devices=1, logger=list(loggers),
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
    )  # fmt: skip


class Measuring(BoringModel):
    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val/loss", 1.0)
        return super().validation_step(batch, batch_idx)


def test_every_logger_gets_configuration_and_commit_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", "a9c1-very-private")
    first, second, own = Noting(), Noting(), JsonlLogger(tmp_path, "", "")
    config = OmegaConf.create({"seed": 3, "note": "x a9c1-very-private y"})
    trainer(first, second, own, callbacks=[ConfigRecord(config)]).fit(Measuring())
    assert first.config == second.config
    assert (first.config["seed"], first.config["note"]) == (3, "x *** y")
    assert first.config["run"]["git"] == git_state()
    (line,) = [line for line in read_lines(own.path) if line["event"] == "run/config"]
    assert line["config"] == {"seed": 3, "note": "x *** y"}


def test_loggers_are_told_of_the_checkpoint_that_follows_a_metric_alone(tmp_path: Path) -> None:
    """Whichever they are told of last they call best."""
    noting = Noting()
    best = AtomicCheckpoint(tmp_path, "best", monitor="val/loss")
    latest = AtomicCheckpoint(tmp_path, "last", every_n_train_steps=1)
    trainer(noting, callbacks=[best, latest], enable_checkpointing=True).fit(Measuring())
    assert noting.saved == ["best.ckpt"]
    trainer(noting, callbacks=[latest], enable_checkpointing=True).fit(Measuring())
    assert "last" in noting.saved[-1]


# ---------------------------------------------------------------------------------------- pictures


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.new("RGB", (6, 4), (200, 10, 10)).save(tmp_path / "kept.png")
    return tmp_path / "kept.png"


def test_tensorboard_holds_a_picture_and_the_log_says_where_it_lies(
    picture: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoardLogger(tmp_path, name="", version="board")
    own, csv = JsonlLogger(tmp_path, "", ""), CSVLogger(tmp_path, "", "csv")
    run = trainer(board, own, csv)
    log_picture(run, "test/kept", picture)
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    (image,) = events.Images("test/kept")
    assert (image.width, image.height) == (6, 4)
    (line,) = read_lines(own.path)
    assert (line["event"], line["picture"]) == ("picture/saved", "test/kept")
    assert line["path"] == str(picture)


def test_a_logger_that_cannot_take_a_picture_costs_a_warning(picture: Path, tmp_path: Path) -> None:
    board = TensorBoardLogger(tmp_path, name="", version="board")
    run = trainer(board)
    picture.write_text("no picture")
    with pytest.warns(
        UserWarning, match="TensorBoardLogger could not take the picture 'test/kept'"
    ):
        log_picture(run, "test/kept", picture)


# ---------------------------------------------------------------------------- trackers of their own


def test_wandb_offline_holds_metrics_configuration_and_the_best_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    fit(tmp_path, "logger=wandb", "logger.log_model=true")
    written = only(tmp_path, "*.wandb").read_bytes()
    for word in ("val/exact_match", "train/loss", "default_root_dir", '"versions"', "best.ckpt"):
        assert word.encode() in written, word
    staged = [path for path in (tmp_path / "home/artifacts/staging").iterdir() if path.is_file()]
    best = only(tmp_path / "outputs", "best.ckpt")
    assert [path.read_bytes() for path in staged] == [best.read_bytes()], "and not the last one"
    assert any(line["event"] == "run/ended" for line in read_lines(only(tmp_path, LOG)))


def test_mlflow_keeps_runs_in_a_file(tmp_path: Path) -> None:
    if not all(find_spec(name) for name in ("mlflow", "sqlalchemy", "alembic")):
        pytest.skip("mlflow is not installed")
    fit(tmp_path, "logger=mlflow", "logger.log_model=true")
    store = sqlite3.connect(tmp_path / "outputs" / "mlflow.db")
    metrics = {row[0] for row in store.execute("select distinct key from metrics")}
    params = dict(store.execute("select key, value from params"))
    (status,) = [row[0] for row in store.execute("select status from runs")]
    store.close()
    assert {"train/loss", "val/exact_match"} <= metrics
    assert params["seed"] == "0"
    assert params["run/versions/lightning"] == pl.__version__
    assert status == "FINISHED"
    assert only(tmp_path / "outputs" / "mlflow", "best.ckpt").is_file()


def test_a_sweep_begins_a_run_of_its_own_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []

    class Wandb:
        run: Any = object()

        @staticmethod
        def finish(exit_code: int) -> None:
            ended.append(exit_code)

    monkeypatch.setitem(sys.modules, "wandb", Wandb)
    _finish_tracking(2)
    Wandb.run = None
    _finish_tracking(0)
    assert ended == [2]
