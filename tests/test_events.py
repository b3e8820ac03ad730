"""What happens to a run reaches those who listen, and nobody else is disturbed."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger

from lightning_arrcoc.events import Event, record


class Telling(pl.Callback):
    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        record(trainer, "batch/skipped", why="too large", samples=[3, 4])


class Listening(pl.Callback):
    def __init__(self) -> None:
        self.heard: list[Event] = []

    def on_event(self, event: Event) -> None:
        self.heard.append(event)


class ListeningLogger(CSVLogger):
    def on_event(self, event: Event) -> None:
        heard_by_logger.append(event)


class Deaf(pl.Callback):
    def on_event(self, event: Event) -> None:
        raise OSError("disk full")


heard_by_logger: list[Event] = []


def fit(folder: Path, *callbacks: pl.Callback, logger: Any = False) -> None:
    pl.Trainer(
        max_steps=2, accelerator="cpu", devices=1, limit_val_batches=0, callbacks=list(callbacks),
        logger=logger, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=folder,
    ).fit(BoringModel())  # fmt: skip


def test_callbacks_and_loggers_of_the_run_hear_of_it(tmp_path: Path) -> None:
    listening, elsewhere = Listening(), Listening()
    heard_by_logger.clear()
    fit(tmp_path, listening, Telling(), logger=ListeningLogger(tmp_path))
    first, second = listening.heard
    assert (first.name, first.step, second.step) == ("batch/skipped", 1, 2)
    assert first.fields == {"why": "too large", "samples": [3, 4]}
    assert (first.rank, first.epoch) == (0, 0)
    assert heard_by_logger == listening.heard
    assert elsewhere.heard == []


def test_an_event_is_a_line_of_json() -> None:
    event = record(None, "checkpoint/saved", path="a.ckpt", bytes=3)
    assert json.loads(json.dumps(event._asdict()))["fields"] == {"path": "a.ckpt", "bytes": 3}
    assert (event.step, event.epoch, event.rank) == (0, 0, 0)


def test_without_a_trainer_python_s_logging_hears_of_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "lightning_arrcoc.events"):
        event = record(None, "checkpoint/saved", path="a.ckpt")
    assert caplog.records[0].__dict__["event"] == event
    assert "checkpoint/saved {'path': 'a.ckpt'}" in caplog.text


def test_a_listener_that_fails_is_a_warning_and_the_run_goes_on(tmp_path: Path) -> None:
    listening = Listening()
    with pytest.warns(UserWarning, match=r"Deaf could not take the event .* disk full"):
        fit(tmp_path, Deaf(), listening, Telling())
    assert len(listening.heard) == 2


def test_a_field_may_have_any_name() -> None:
    assert record(None, "a/b", name="x", trainer="y").fields == {"name": "x", "trainer": "y"}
