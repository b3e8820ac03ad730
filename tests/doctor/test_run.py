"""The doctor finds what would end a long run, each thing in its row, and leaves nothing behind."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from packaging.requirements import Requirement
from PIL import Image

from lightning_arrcoc import cli
from lightning_arrcoc.config import check_overrides, config_dir
from lightning_arrcoc.doctor import device, disk, model, run, samples, saving, steps, versions
from lightning_arrcoc.doctor.finding import Check, Finding, Patient, as_table, go_through
from lightning_arrcoc.objectives import Lesson

SMALL = (
    "data.batch_size=2", "data.val_batch_size=2", "data.num_workers=0", "data.train.length=12",
    "data.val.length=2", "data.train.turns=2", "data.train.families=[place]",
    *(f"data.{split}.canvas_px=[96,96]" for split in ("train", "val")),
    *(f"data.{split}.digits=2" for split in ("train", "val")),
    *(f"data.{split}.digit_px=[24,26]" for split in ("train", "val")),
)  # fmt: skip

Make = Callable[..., Patient]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backbone_folder: Path) -> Make:
    """A patient as the command line makes it, with an untrained backbone and small pictures."""
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scratch").mkdir()

    def run(*words: str) -> Patient:
        named = any(word.startswith("model.backbone=") for word in words)
        backbone = [] if named else [f"model.backbone={backbone_folder}"]
        small = [] if "data=jsonl" in words else SMALL
        checked = check_overrides("doctor", [*small, *backbone, *words])
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            config = compose("doctor", checked)
        GlobalHydra.instance().clear()
        return Patient(config, tmp_path / "outputs", tmp_path / "scratch")

    return run


def seen(patient: Patient, *looks: Callable[[Patient], Finding]) -> list[Finding]:
    """What several checks find in turn."""
    return [look(patient) for look in looks]


# ------------------------------------------------------------------------------------ going through


def test_a_check_that_raises_is_a_row_and_those_that_need_it_are_left_out(make: Make) -> None:
    def broken(patient: Patient) -> Finding:
        raise ValueError("line 3:\nno answer")

    fine = Finding("ok", "fine")
    checks = (
        Check("data", broken), Check("folder", lambda patient: fine),
        Check("steps", lambda patient: fine, ("data",)),
        Check("loaders", lambda patient: fine, ("steps", "folder")),
    )  # fmt: skip
    found = go_through(checks, make())
    assert found["data"] == Finding("fail", "line 3: no answer")
    assert found["folder"] == fine
    assert found["steps"] == Finding("skip", "needs data")
    assert found["loaders"] == Finding("skip", "needs steps")
    assert as_table(found).row_count == 4


# ---------------------------------------------------------------------------------------- versions


def judged(needed: str = "torch>=2.11", **found: str) -> Finding:
    good = {"torch": "2.13.0", "lightning": "2.6.6", "transformers": "5.23.0", "pillow": "13.0.0"}
    return versions.judge((good | found).get, [Requirement(needed)])


def test_good_versions_are_told() -> None:
    assert judged() == Finding("ok", "torch 2.13.0, lightning 2.6.6, transformers 5.23.0")


@pytest.mark.parametrize(
    ("found", "status", "words"),
    [
        ({"lightning": "2.6.3"}, "fail", "lightning 2.6.3: steals credentials"),
        ({"lightning": "2.6.5"}, "fail", "CVE-2026-58659"),
        ({"torch": "2.9.1+cu128"}, "fail", "pytorch/pytorch#174051"),
        ({"pillow": "12.3.0"}, "warn", "CVE-2026-112403"),
        ({"torch": "2.10.0"}, "fail", "torch 2.10.0, but >=2.11 is needed"),
    ],
)
def test_bad_versions_are_named_with_their_source(
    found: dict[str, str], status: str, words: str
) -> None:
    finding = judged(**found)
    assert finding.status == status
    assert words in finding.what
    assert finding.advice.startswith(f'pip install --upgrade "{next(iter(found))}')


def test_what_is_missing_is_named() -> None:
    assert judged("kornia>=0.8").what == "kornia is missing, but >=0.8 is needed"


def test_what_the_tests_run_with_is_good() -> None:
    assert versions.judge(versions.installed, versions.requirements()).status in ("ok", "warn")


# ------------------------------------------------------------------------------------------ device


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_fails(make: Make) -> None:
    patient = make("trainer=gpu")
    found = go_through([Check("device", device.look)], patient)["device"]
    assert found.status == "fail"
    assert "gpu" in found.what


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cards_that_torch_cannot_use_are_told(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    assert device.look(make()).status == "ok"
    monkeypatch.setattr(device, "nvidia_driver", lambda: device.Driver("470.1", 2))
    found = device.look(make())
    assert found.status == "warn"
    assert "driver 470.1 sees 2 cards" in found.what


# -------------------------------------------------------------------------------------------- disk


@pytest.mark.skipif(sys.platform != "linux", reason="a folder that nobody can write, root included")
def test_a_folder_that_cannot_be_written_fails(make: Make) -> None:
    patient = make()
    patient.folder = Path("/proc/outputs")
    found = disk.may_write(patient)
    assert found.status == "fail"
    assert found.what.startswith("/proc cannot be written")
    assert "hydra.run.dir" in found.advice


def test_a_folder_that_can_be_written_is_not_made(make: Make) -> None:
    patient = make()
    assert disk.may_write(patient).status == "ok"
    assert not patient.folder.exists()


class Usage(NamedTuple):
    free: int


@pytest.mark.parametrize(("free_mib", "status"), [(1, "fail"), (14, "warn"), (10_000, "ok")])
def test_checkpoints_are_compared_with_what_is_free(
    free_mib: int, status: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = make()
    assert model.look(patient).status == "ok"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(free_mib << 20))
    found = disk.has_room(patient)
    assert found.status == status
    trained = sum(p.nbytes for p in patient.module.model.arr_coc.parameters())
    assert f"2 checkpoints of {disk.words(3 * trained + 2**20)}" in found.what
    assert f"{disk.words(free_mib << 20)} free" in found.what


@pytest.mark.parametrize(
    ("words", "files"),
    [
        ((), [1, 1]),
        (("callbacks=none",), []),
        (("callbacks.checkpoint.save_top_k=3", "callbacks.checkpoint.save_last=true"), [4, 1]),
        (("callbacks.latest.save_top_k=-1",), [1, 8]),  # every 50 of 400 steps
        (("callbacks.checkpoint.save_top_k=-1",), [None, 1]),
        (("callbacks.latest.periodic_every_n_steps=100",), [1, 5]),
        (
            ("callbacks.latest.periodic_every_n_steps=10", "callbacks.latest.keep_periodic=5"),
            [1, 6],
        ),
    ],
)
def test_how_many_are_kept_is_counted(
    words: tuple[str, ...], files: list[int | None], make: Make
) -> None:
    assert [kept.files for kept in disk.kept_by(make(*words).config)] == files


def test_no_end_to_what_is_kept_is_told(make: Make) -> None:
    patient = make("callbacks.checkpoint.save_top_k=-1")
    model.look(patient)
    assert disk.has_room(patient).what.endswith("nothing says how many are kept")


# -------------------------------------------------------------------------------------------- data


def test_the_first_samples_are_shown_and_drawn(make: Make, tmp_path: Path) -> None:
    patient = make("data.test=null")
    found = samples.look(patient)
    assert found == Finding("ok", "12 train / 2 val / no test samples; drawn in doctor.png")
    with Image.open(tmp_path / "doctor.png") as picture:
        assert picture.width > 500
    (table,) = patient.shown
    assert table.row_count == 4
    assert str(next(iter(table.columns[3].cells))) == "96 x 96"


def test_broken_data_fails_with_file_and_line(make: Make, tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / f"{split}.jsonl").write_text('{"image": "no.png", "question": "?"}\n')
    patient = make(
        "data=jsonl", "data.test=null",
        *(f"data.{split}.path={tmp_path / split}.jsonl" for split in ("train", "val")),
    )  # fmt: skip
    found = go_through([Check("data", samples.look)], patient)["data"]
    assert found.status == "fail"
    assert "train.jsonl" in found.what


# ------------------------------------------------------------------------------------------- model


def test_a_backbone_that_is_not_there_fails(make: Make) -> None:
    patient = make("model.backbone=nobody/has-this-model")
    found = go_through([Check("model", model.look)], patient)["model"]
    assert found.status == "fail"
    assert "nobody/has-this-model" in found.what


# ------------------------------------------------------------------------------------------- steps


@pytest.fixture
def ready(make: Make) -> Callable[..., Patient]:
    """A patient whose batch is at hand."""

    def run(*words: str) -> Patient:
        patient = make("picture_samples=0", *words)
        found = seen(patient, samples.look, model.look, steps.one_batch)
        assert [finding.status for finding in found] == ["ok"] * 3
        return patient

    return run


def weights(patient: Patient) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in patient.module.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_batch_is_learnt_ten_steps_are_taken_and_weights_are_what_they_were(
    ready: Make, tmp_path: Path
) -> None:
    patient = ready()
    before = weights(patient)
    learnt, taken, saved, loaded = seen(
        patient, steps.overfit, steps.ten_steps, saving.look, steps.loading
    )
    assert learnt.status == taken.status == saved.status == "ok"
    assert "val/exact_match" in taken.what
    assert saved.what.endswith("loaded and equal")
    assert loaded.what.endswith("of the time waits for data")
    assert same(before, weights(patient))
    written = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {"doctor.ckpt"}


def test_a_loss_that_does_not_fall_fails(ready: Make) -> None:
    found = steps.overfit(ready("training.learning_rate=0"))
    assert found.status == "fail"
    assert found.what.endswith("it does not fall")
    assert found.advice == "see training.learning_rate"


def test_a_loss_that_is_not_finite_fails_and_the_steps_are_left_out(make: Make) -> None:
    patient = make("picture_samples=0")
    seen(patient, samples.look, model.look)
    patient.module.objective = lambda trained, inputs, progress: Lesson(
        torch.nan * sum(p.sum() for p in trained.arr_coc.parameters()), {}
    )
    names = [check.name for check in run.CHECKS]
    found = go_through(run.CHECKS[names.index("one batch") :], patient)
    assert [finding.status for finding in found.values()] == ["fail", *["skip"] * 4]
    assert found["one batch"].what.endswith("loss nan: the loss is not finite")


def test_a_model_that_cannot_be_saved_fails(ready: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    patient = ready()
    steps.ten_steps(patient)

    def on_save_checkpoint(checkpoint: dict[str, Any]) -> None:
        checkpoint["mine"] = Path("an object")

    monkeypatch.setattr(patient.module, "on_save_checkpoint", on_save_checkpoint)
    found = go_through([Check("checkpoint", saving.look)], patient)["checkpoint"]
    assert found.status == "fail"
    assert "Path" in found.what


def test_what_is_another_one_when_it_is_loaded_is_named() -> None:
    saved = {"a": [torch.ones(2), {"b": 1}], "c": torch.zeros(1)}
    assert saving.differing(saved, saved) == ""
    assert saving.differing(saved, {"a": [torch.ones(2), {"b": 2}], "c": torch.zeros(1)}) == "a.1.b"
    assert saving.differing(saved, {"a": [torch.ones(2), {"b": 1}]}) == "c"


def test_waiting_for_data_is_told(make: Make) -> None:
    patient = make()
    patient.share_waiting = 0.4
    assert steps.loading(patient) == Finding(
        "warn", "40% of the time waits for data", "python -m lightning_arrcoc doctor loader"
    )


# ------------------------------------------------------------------------------------ the command


@pytest.mark.filterwarnings("ignore")  # as in a program of its own
def test_the_whole_of_it_prints_a_table_and_leaves_a_picture_alone(
    tmp_path: Path,
    backbone_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)

    def doctor(*words: str) -> tuple[int, str]:
        arguments = ["doctor", *SMALL, "hydra.run.dir=outputs/mine", *words]
        monkeypatch.setattr(sys, "argv", ["lightning_arrcoc", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert isinstance(left.value.code, int)
        return left.value.code, capsys.readouterr().out

    code, out = doctor(f"model.backbone={backbone_folder}")
    assert code == 0, out
    for check in run.CHECKS:
        assert check.name in out
    assert "1 warn, 0 fail, 0 skip" in out or "0 fail, 0 skip" in out
    assert [path.name for path in tmp_path.iterdir()] == ["doctor.png"]
    code, out = doctor("model.backbone=nowhere", "picture_samples=0")
    assert code == 1
    assert "needs model" in out
    assert "1 fail, 6 skip" in out
