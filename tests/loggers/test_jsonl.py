"""JsonlLogger in real runs: what happened is in the file, whatever became of the run."""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel

from lightning_arrcoc.events import record
from lightning_arrcoc.loggers import JsonlLogger, read_runs
from lightning_arrcoc.loggers.jsonl_file import JsonlFile, read_lines


class Measuring(BoringModel):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("train/loss", float(self.global_step))
        self.log("odd", math.nan if self.global_step else math.inf)
        return super().training_step(batch, batch_idx)


def fit(folder: Path, *callbacks: pl.Callback, **options: Any) -> JsonlLogger:
    logger = JsonlLogger(folder)
    usual: dict[str, Any] = {"max_steps": 2, "limit_val_batches": 0}
    pl.Trainer(
        **(usual | options), log_every_n_steps=1, accelerator="cpu", devices=1, logger=logger,
        callbacks=list(callbacks), enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False,
    ).fit(Measuring())  # fmt: skip
    return logger


def lines_of(logger: JsonlLogger, event: str) -> list[dict[str, Any]]:
    return [line for line in read_lines(logger.path) if line["event"] == event]


@pytest.fixture
def logger(tmp_path: Path) -> Iterator[JsonlLogger]:
    made = JsonlLogger(tmp_path)
    yield made
    made.finalize("success")


# ----------------------------------------------------------------------------------- what is there


def test_metrics_are_plain_numbers_with_step_epoch_and_phase(tmp_path: Path) -> None:
    logger = fit(tmp_path)
    assert logger.path == tmp_path / "lightning_logs" / "version_0" / "log.jsonl"
    first, second = lines_of(logger, "metrics")
    assert second["metrics"]["train/loss"] == 1.0
    assert (second["step"], second["epoch"], second["phase"]) == (1, 0, "train")
    assert (second["rank"], second["level"]) == (0, "INFO")
    assert first["time"] < second["time"]
    assert first["time"].endswith("+00:00")


def test_every_line_is_json_as_others_read_it_though_a_metric_is_not_finite(tmp_path: Path) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    logger = fit(tmp_path)
    for line in logger.path.read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    first, second = lines_of(logger, "metrics")
    assert first["metrics"]["odd"] == math.inf
    assert math.isnan(second["metrics"]["odd"])


def test_it_begins_with_a_header_and_ends_with_a_reason(tmp_path: Path) -> None:
    logger = fit(tmp_path)
    (started,) = lines_of(logger, "run/started")
    assert started["versions"]["torch"] == torch.__version__
    assert set(started["git"] or {"commit": 0, "dirty": 0}) == {"commit", "dirty"}
    assert started["hardware"]["cores"] == os.cpu_count()
    assert started["parameters"] == {"all": 66, "trainable": 66}
    (ended,) = lines_of(logger, "run/ended")
    assert (ended["status"], ended["reason"]) == ("success", None)


class Failing(pl.Callback):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_train_batch_end(self, *_: Any) -> None:
        raise self.error


def test_a_run_that_fails_ends_with_its_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no luck"):
        fit(tmp_path, Failing(RuntimeError("no luck")))
    (ended,) = lines_of(JsonlLogger(tmp_path, version=0), "run/ended")
    assert (ended["status"], ended["level"]) == ("failed", "ERROR")
    assert ended["reason"] == "RuntimeError: no luck"


def test_configuration_is_kept(tmp_path: Path, logger: JsonlLogger) -> None:
    logger.log_hyperparams({"model": {"width": 3, "where": tmp_path}, "rates": (1, 2)})
    (line,) = lines_of(logger, "run/config")
    assert line["config"] == {"model": {"width": 3, "where": str(tmp_path)}, "rates": [1, 2]}


class Recording(pl.Callback):
    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        record(trainer, "batch/skipped", why="too large", time="no", samples=[3, 4])


def test_events_of_callbacks_are_lines_with_their_own_fields(tmp_path: Path) -> None:
    first, second = lines_of(fit(tmp_path, Recording()), "batch/skipped")
    assert first["why"] == "too large"
    assert first["samples"] == [3, 4]
    assert (first["step"], second["step"]) == (1, 2)
    assert first["time"] != "no", "a field of its own hides none of ours"


class Talking(pl.Callback):
    def on_train_batch_end(self, *_: Any) -> None:
        logging.getLogger("lightning.pytorch.somewhere").info("from %s", "Lightning")
        logging.getLogger("lightning_arrcoc.somewhere").warning("from ours")
        logging.getLogger("other").warning("from others")
        warnings.warn("from anywhere", UserWarning, stacklevel=1)


@pytest.mark.filterwarnings("always:from anywhere")
def test_what_lightning_we_and_warnings_say_is_heard_once_while_the_run_lasts(
    tmp_path: Path,
) -> None:
    shown = warnings.showwarning
    logger = fit(tmp_path, Talking(), max_steps=1)
    said = [(line["level"], line["message"]) for line in lines_of(logger, "log")]
    assert said.count(("INFO", "from Lightning")) == 1
    assert said.count(("WARNING", "from ours")) == 1
    assert "from others" not in [message for _, message in said]
    (warned,) = [w for w in lines_of(logger, "warning") if w["message"] == "from anywhere"]
    assert warned["category"] == "UserWarning"
    assert Path(warned["at"].partition(":")[0]).name == "test_jsonl.py"
    before = logger.path.read_bytes()
    logging.getLogger("lightning_arrcoc").warning("later")
    assert logger.path.read_bytes() == before
    assert warnings.showwarning is shown


def test_a_second_run_of_the_same_logger_is_heard_too(tmp_path: Path) -> None:
    logger = JsonlLogger(tmp_path)
    for _ in range(2):
        pl.Trainer(
            max_steps=1, limit_val_batches=0, accelerator="cpu", devices=1, logger=logger,
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        ).fit(BoringModel())  # fmt: skip
    assert len(lines_of(logger, "run/started")) == len(lines_of(logger, "run/ended")) == 2


# -------------------------------------------------------------------------------------- folders


def test_each_run_has_a_folder_of_its_own_unless_one_is_named(tmp_path: Path) -> None:
    assert [fit(tmp_path).version for _ in range(2)] == [0, 1]
    named = JsonlLogger(tmp_path, name="", version="mine")
    named.log_metrics({"a": 1}, 0)
    assert named.path == tmp_path / "mine" / "log.jsonl"
    again = JsonlLogger(tmp_path, name="", version="mine")
    again.log_metrics({"a": 2}, 1)
    assert [line["metrics"]["a"] for line in read_lines(again.path)] == [1, 2]


def test_a_copy_in_another_process_writes_to_the_same_file(logger: JsonlLogger) -> None:
    logger.log_metrics({"a": 1}, 0)
    copy = pickle.loads(pickle.dumps(logger))
    copy.log_metrics({"a": 2}, 1)
    assert [line["metrics"]["a"] for line in read_lines(logger.path)] == [1, 2]


# ---------------------------------------------------------------------------------------- crashes


SCRIPT = """
import os, signal, sys
from pathlib import Path
from lightning_arrcoc.loggers import JsonlLogger
logger = JsonlLogger(sys.argv[1], name="", version="killed")
for step in range(10**9):
    logger.log_metrics({"loss": step}, step)
    print(step, flush=True)
"""


def test_a_killed_run_has_every_line_that_it_wrote(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    told = [int(process.stdout.readline()) for _ in range(50)]
    process.send_signal(signal.SIGKILL)
    told += [int(line) for line in process.communicate()[0].splitlines() if line.strip()]
    path = tmp_path / "killed" / "log.jsonl"
    steps = [line["step"] for line in read_lines(path)]
    assert steps[: len(told)] == told
    assert len(steps) <= len(told) + 1
    assert path.read_bytes().endswith(b"}\n")


@pytest.mark.parametrize("cut", [1, 20, 40])
def test_a_torn_last_line_is_left_out_and_the_next_one_begins_anew(
    tmp_path: Path, cut: int
) -> None:
    path = tmp_path / "log.jsonl"
    for number in range(3):
        JsonlFile(path).append({"event": "metrics", "metrics": {"number": number}})
    path.write_bytes(path.read_bytes()[:-cut])
    whole = 3 if cut == 1 else 2
    assert [line["metrics"]["number"] for line in read_lines(path)] == list(range(whole))
    JsonlFile(path).append({"event": "metrics", "metrics": {"number": 9}})
    assert [line["metrics"]["number"] for line in read_lines(path)] == [*range(whole), 9]


def test_garbage_in_a_log_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    good = '{"event": "metrics", "step": 1, "metrics": {"loss": 1.0}}\n'
    path.write_bytes(b"\xff\x00garbage\n[1, 2]\n17\n\n" + good.encode() + b'{"event": "met\n')
    assert [line["step"] for line in read_lines(path)] == [1]
    assert len(read_runs(tmp_path)) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no right to mount a disk here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_costs_lines_and_one_warning_and_the_run_goes_on(small_disk: Path) -> None:
    logger = JsonlLogger(small_disk)
    other = small_disk / "other"
    logger.log_metrics({"before": 1.0}, 0)
    other.write_bytes(bytes(40_000))

    def log_much() -> None:
        for step in range(2000):
            logger.log_metrics({"loss": 1.0}, step)

    with pytest.warns(UserWarning, match="cannot write .* No space left on device") as warned:
        log_much()
    assert len(warned) == 1
    other.unlink()
    logger.log_metrics({"after": 1.0}, 9)
    found = list(read_lines(logger.path))
    assert found[0]["metrics"] == {"before": 1.0}
    assert found[-1]["metrics"] == {"after": 1.0}
    logger.finalize("success")


def test_a_folder_that_cannot_be_made_costs_one_warning(tmp_path: Path) -> None:
    (tmp_path / "lightning_logs").write_text("a file")
    with pytest.warns(UserWarning, match="cannot write") as warned:
        fit(tmp_path)
    assert len([w for w in warned if "JsonlLogger" in str(w.message)]) == 1


# ---------------------------------------------------------------------------------------- secrets


def test_secrets_are_hidden_wherever_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = {
        "env": "a9c1-very-private", "hub": "hf_" + "a1B2" * 8, "github": "ghp_" + "x" * 36,
        "named": "hunter2hunter2", "url": "me:pa55word", "bearer": "abcdefgh12345678",
    }  # fmt: skip
    monkeypatch.setenv("MY_SERVICE_TOKEN", secrets["env"])
    logger = JsonlLogger(tmp_path)
    logger.log_hyperparams({
        "wandb": {"api_key": secrets["named"]}, "note": f"x {secrets['env']} y",
        "backbone": secrets["hub"], "list": [{"password": secrets["named"]}],
        "remote": f"https://{secrets['url']}@host/path", "monitor": "val/loss",
    })  # fmt: skip
    logger.heard("log", logging.INFO, f"Bearer {secrets['bearer']} {secrets['github']}")
    with pytest.raises(RuntimeError, match="no luck"):
        fit(tmp_path, Failing(RuntimeError(f"no luck with {secrets['env']}")))
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*.jsonl")).decode()
    for secret in secrets.values():
        assert secret not in written
    assert "https://***@host/path" in written
    assert "val/loss" in written


# ------------------------------------------------------------------------------------ many ranks


RANKS = """
import sys, lightning.pytorch as pl
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning_arrcoc.events import record
from lightning_arrcoc.loggers import JsonlLogger
class Recording(pl.Callback):
    def on_train_batch_end(self, trainer, module, *_):
        module.log("loss", 1.0)
        record(trainer, "batch/skipped", by=trainer.global_rank)
pl.Trainer(
    max_steps=2, limit_val_batches=0, accelerator="cpu", devices=2, strategy="ddp",
    logger=JsonlLogger(sys.argv[1], name="", version="run"), log_every_n_steps=1,
    enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    callbacks=[Recording()],
).fit(BoringModel())
"""


def test_each_rank_has_its_events_in_a_file_of_its_own(
    tmp_path: Path, run_program: Callable[..., Any]
) -> None:
    (tmp_path / "script.py").write_text(RANKS)
    done = run_program(tmp_path / "script.py", str(tmp_path), ranks=2)
    assert done.returncode == 0, done.stderr[-2000:]
    zero, one = (list(read_lines(tmp_path / "run" / f"log{r}.jsonl")) for r in ("", ".rank1"))
    assert {line["rank"] for line in zero} == {0}
    assert {line["rank"] for line in one} == {1}
    assert [line["by"] for line in one if line["event"] == "batch/skipped"] == [1, 1]
    assert sum(line["event"] == "metrics" for line in zero) == 2
    assert not any(line["event"] in ("metrics", "run/started", "run/ended") for line in one)


# --------------------------------------------------------------------------------------- reading


def test_runs_are_read_as_one_table(tmp_path: Path) -> None:
    fit(tmp_path)
    fit(tmp_path)
    frame = read_runs(tmp_path)
    assert list(frame["train/loss"]) == [0.0, 1.0, 0.0, 1.0]
    assert [Path(run).name for run in frame["run"]] == ["version_0"] * 2 + ["version_1"] * 2
    assert list(frame["step"]) == [0, 1, 0, 1]
    assert str(frame["time"].dtype).startswith("datetime64")


def test_without_pandas_they_are_dictionaries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = fit(tmp_path)
    monkeypatch.setattr("lightning_arrcoc.loggers.jsonl_file.find_spec", lambda name: None)
    rows = read_runs(logger.path)
    assert [row["train/loss"] for row in rows] == [0.0, 1.0]


def test_a_folder_without_a_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no log.jsonl in .* JsonlLogger"):
        read_runs(tmp_path)
