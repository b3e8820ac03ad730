"""Logs in every state that a run can leave them in."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path

import pytest

from lightning_arrcoc.loggers.jsonl_file import JsonlFile
from lightning_arrcoc.loggers.redaction import HIDDEN
from lightning_arrcoc.report.command import read
from lightning_arrcoc.report.ending import ending_of
from lightning_arrcoc.report.finding import find_runs, short_names
from lightning_arrcoc.report.run import Run

from .conftest import NOW, STARTED, Write, line


def only(folder: Path) -> Run:
    (found,) = find_runs([str(folder)])
    return read(found, "run")


# -------------------------------------------------------------------------------------- finding


def test_a_folder_holds_several_runs_and_a_file_is_one(write: Write, tmp_path: Path) -> None:
    write("sweep/lr=1/logs"), write("sweep/lr=2/logs")
    found = find_runs([str(tmp_path)])
    assert short_names(found) == ["lr=1", "lr=2"]
    assert len(find_runs([str(tmp_path / "sweep/lr=1/logs/log.jsonl")])) == 1


def test_a_run_that_is_named_twice_is_one(write: Write, tmp_path: Path) -> None:
    folder = write()
    assert len(find_runs([str(folder), str(tmp_path), str(folder / "log.jsonl")])) == 1


def test_a_folder_without_runs_is_said_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no run in .* expected log.jsonl .* logger=jsonl"):
        find_runs([str(tmp_path)])
    with pytest.raises(ValueError, match="Nothing at"):
        find_runs([str(tmp_path / "nowhere")])
    (tmp_path / "picture.png").touch()
    with pytest.raises(ValueError, match=r"is no log; expected log.jsonl"):
        find_runs([str(tmp_path / "picture.png")])


def test_a_folder_that_may_not_be_read_is_an_error_and_no_empty_report(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    write()
    scan = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("one"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="one"):
        find_runs([str(tmp_path)])


def test_a_table_beside_a_log_is_not_a_run_more(write: Write) -> None:
    folder = write()
    (folder / "csv").mkdir()
    (folder / "csv" / "metrics.csv").write_text("step,val/loss\n1,2.0\n")
    assert only(folder).told_by == "log.jsonl"


# -------------------------------------------------------------------------------------- reading


def test_curves_header_configuration_and_footer_are_read(write: Write) -> None:
    run = only(write(config={"model": {"width": 3}}))
    assert run.curves["val/loss"].steps.tolist() == [9, 19, 29, 39, 49, 59]
    assert run.curves["val/loss"].values[0] == 1 / 9
    assert run.started["git"] == STARTED["git"]
    assert run.config == {"model": {"width": 3}}
    assert (run.last_step, run.unreadable, run.torn) == (60, 0, False)
    assert ending_of(run, NOW) == ("finished", "Ran to its end.")


def test_a_torn_last_line_and_garbage_are_counted_and_the_rest_is_read(write: Write) -> None:
    folder = write(ended=False)
    with (folder / "log.jsonl").open("ab") as file:
        file.write(b"\x00\xff garbage\n[1, 2]\n\n" + b'{"a":' * 900 + b"1" + b"}" * 900 + b"\n")
        file.write(b'{"event":"metrics","step":60,"metr')
    run = only(folder)
    assert (run.unreadable, run.torn) == (3, True)
    assert len(run.curves["train/loss"].values) == 60


def test_lines_of_json_that_are_not_ours_do_no_harm(tmp_path: Path) -> None:
    file = JsonlFile(tmp_path / "log.jsonl")
    for odd in (
        {}, {"event": None}, {"event": ["x"], "time": 3, "step": "ten", "rank": {}},
        {"event": "metrics"}, {"event": "metrics", "metrics": [1]},
        {"event": "metrics", "metrics": {"a": "text", "b": None, "c": {}, "d": True}},
        {"event": "run/config", "config": [1]}, {"event": "run/started", "hardware": 3, "git": 4},
        {"event": "run/ended", "reason": ["x"]}, {"event": "metrics", "metrics": {"e": 2**60}},
    ):  # fmt: skip
        file.append(odd)
    run = only(tmp_path)
    assert sorted(run.curves) == ["d", "e"]
    assert ending_of(run, NOW).state == "failed"


def test_values_that_are_no_numbers_are_read_as_such(write: Write) -> None:
    run = only(write(odd=math.nan, big=-math.inf))
    assert all(math.isnan(value) for value in run.curves["odd"].values)
    assert set(run.curves["big"].values) == {-math.inf}


def test_secrets_are_hidden_once_more(write: Write) -> None:
    token = "hf_" + "a" * 30
    event = line("log", 1, message=f"with {token}")
    run = only(write("one", event, config={"api_key": "abc", "deep": [{"password": "xyz"}]}))
    assert run.config == {"api_key": HIDDEN, "deep": [{"password": HIDDEN}]}
    assert token not in str(run.happenings)


def test_events_of_all_ranks_belong_to_one_run(write: Write) -> None:
    folder = write()
    other = JsonlFile(folder / "log.rank1.jsonl")
    other.append(line("batch/skipped", 3) | {"rank": 1})
    other.append(line("run/ended", 4, status="failed", reason="OSError: gone") | {"rank": 1})
    run = only(folder)
    assert run.ranks == [0, 1]
    assert ending_of(run, NOW) == ("finished", "Ran to its end. Rank 1: OSError: gone")


def test_the_log_of_another_rank_alone_says_what_it_lacks(write: Write) -> None:
    folder = write()
    other = JsonlFile(folder / "log.rank1.jsonl")
    other.append(line("batch/skipped", 3) | {"rank": 1})
    (folder / "log.jsonl").unlink()
    run = only(folder)
    assert not run.curves
    assert "Rank zero's log.jsonl is not here" in run.notes[0]
    assert ending_of(run, NOW).state == "open"


# --------------------------------------------------------------------------------- why it ended


def test_without_a_footer_the_last_line_is_told_and_how_long_ago_it_was(write: Write) -> None:
    ending = ending_of(only(write(ended=False)), NOW)
    assert ending.state == "open"
    assert "killed, crashed, or still runs" in ending.text
    assert "Last line 2026-01-02 03:05:04 UTC, 1 h 59 min before" in ending.text


def test_an_error_is_told_and_an_interruption_is_none(write: Write) -> None:
    for reason, state in (("ValueError: bad", "failed"), ("KeyboardInterrupt: ", "interrupted")):
        footer = line("run/ended", 9, status="failed", reason=reason)
        ending = ending_of(only(write(state, footer, ended=False)), NOW)
        assert ending.state == state
        assert reason.rstrip(": ") in ending.text


def test_who_stopped_a_run_is_told(write: Write) -> None:
    events = [line("run/stopped", 9, reason="step 9 is not finite."),
              line("overfit/stopped", 9, reasons={"stuck": "no improvement"})]  # fmt: skip
    ending = ending_of(only(write("one", *events)), NOW)
    assert ending == ("stopped", "Stopped: step 9 is not finite; overfitting, no improvement.")


def test_a_run_that_goes_on_in_the_same_log_has_not_ended(write: Write) -> None:
    folder = write("one", line("run/stopped", 9, reason="a spike"))
    file = JsonlFile(folder / "log.jsonl")
    file.append(line("run/started", 9))
    assert ending_of(only(folder), NOW).state == "open"
    file.append(line("run/ended", 99, status="success", reason=None))
    assert ending_of(only(folder), NOW).state == "finished"  # what stopped it was before


def test_the_limit_that_was_reached_is_named(write: Write) -> None:
    run = only(write(config={"trainer": {"max_steps": 60, "max_epochs": -1}}))
    assert ending_of(run, NOW).text == "Ran to its end (max_steps=60)."
    assert ending_of(only(write("two", config={"max_steps": 600})), NOW).text == "Ran to its end."


# --------------------------------------------------------------------------------- without JSONL


def test_a_table_tells_less_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(
        "epoch,step,train/loss,val/loss\n0,0,1.5,\n0,1,nan,2.5\nnot,a,number,!\n0,2,0.5\n0,3,0.4,"
    )
    (tmp_path / "hparams.yaml").write_text("lr: 0.1\ntoken: abcdefgh\n")
    run = only(tmp_path)
    assert run.told_by == "metrics.csv"
    assert run.curves["train/loss"].steps.tolist() == [0, 1, 3]
    assert run.curves["val/loss"].values.tolist() == [2.5]
    assert run.config == {"lr": 0.1, "token": HIDDEN}
    assert run.unreadable == 2
    assert "no events" in run.notes[0]
    assert ending_of(run, NOW + timedelta(1)).state == "unknown"


def test_parameters_that_name_python_objects_are_not_made(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,loss\n1,2.0\n")
    (tmp_path / "hparams.yaml").write_text("a: !!python/object/apply:os.getcwd []\n")
    run = only(tmp_path)
    assert run.config == {}
    assert "hparams.yaml beside it could not be read" in run.notes[1]
