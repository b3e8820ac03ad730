"""The command line as its user meets it: one line for a mistake, everything for a real run.

Most runs start a fresh interpreter; those that need torch and train nothing call `main` here,
which takes the same way without importing it all again.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from lightning.pytorch.utilities.exceptions import SIGTERMException
from PIL import Image

from lightning_arrcoc import cli, commands
from lightning_arrcoc.config import check_overrides

# `main` runs as the user's program does, where a warning is a line on the screen and no error.
pytestmark = pytest.mark.filterwarnings("ignore")

WITHOUT_CHECKPOINT = ("doctor", "cache", "ask", "compare")  # or, as `ask`, with and without
WITH_CHECKPOINT = tuple(name for name in cli.COMMANDS if name not in WITHOUT_CHECKPOINT)
WORDS = {"export": ("format=hf",)}  # that a command does not go without
SMALL = ("experiment=debug", "model.random_weights=true")
PATIENCE_S = 600  # a run takes seconds, but a busy machine is no failure


class Done(NamedTuple):
    """A finished command."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def error(self) -> str:
        """The one line that names the mistake, the last on stderr."""
        lines = [line for line in self.err.splitlines() if line.startswith("error:")]
        assert len(lines) == 1, self.err
        assert self.err.rstrip().splitlines()[-1] == lines[0]
        return lines[0]

    @property
    def written(self) -> list[str]:
        """Files below the folder it ran in, without Hydra's record of the configuration."""
        found = (path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file())
        return sorted(str(path) for path in found if ".hydra" not in path.parts)


def command_line(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "lightning_arrcoc", *arguments]


def shell(folder: Path, *arguments: str) -> Done:
    """Run in a fresh interpreter."""
    done = subprocess.run(
        command_line(*arguments), cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S
    )
    return Done(done.returncode, done.stdout, done.stderr, folder)


Here = Callable[..., Done]


@pytest.fixture
def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Here]:
    """Run in this interpreter, in an empty folder."""
    folder = tmp_path / "started_here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    environment = dict(os.environ)

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["lightning_arrcoc", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capfd.readouterr()
        assert isinstance(left.value.code, int)
        return Done(left.value.code, out, err, folder)

    yield run
    os.environ.clear()
    os.environ.update(environment)


def refused(done: Done, *words: str) -> None:
    """The user can mend it: exit code 2, one line with these words, nothing half-written."""
    assert done.code == 2, done.err
    assert "Traceback" not in done.out + done.err
    for word in words:
        assert word in done.error
    assert done.written == []


# -------------------------------------------------------------------------- before anything starts


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("No command", "fit, validate, test, predict")),
        (("fitt",), ("Unknown command 'fitt'", "Did you mean 'fit'?")),
        (("trian", "seed=3"), ("Unknown command 'trian'", "fit, validate, test, predict")),
        (("fit", "trainer.maxsteps=3"), ("Unknown key", "'max_steps'")),
        (("predict", "trainer.max_steps=abc"), ("expected int",)),
        (("fit", "model=huge"), ("model/huge", "qwen3_vl_2b")),
        (("fit", "model._target_=os.system"), ("os.system is not allowed",)),
        (("fit", "foo"), ("Unknown word 'foo'", "key=value")),
        (("fit", "model.budget=0.1,0.2"), ("several values", "-m")),
        (("fit", "--config-name=other"), ("--config-name",)),
        (("doctor", "laoder"), ("Unknown topic 'laoder'", "Did you mean 'loader'?")),
        (("doctor", "topic=heart"), ("Unknown topic 'heart'", "expected one of run, loader")),
        (
            ("fit", "model.backbone=https://me:hunter2hunter2@host/x"),
            ("model.backbone would be written into the run's record",),
        ),
        (("doctor", "loader", "rounds=0"), ("rounds=0; expected 1 or more",)),
        (("doctor", "loader", "batches=many"), ("batches='many'", "expected int")),
        (("doctor", "loader", "data.num_wokers=1"), ("Unknown key", "'num_workers'")),
    ],
    ids=lambda value: " ".join(value) or "nothing",
)
def test_a_slip_on_the_command_line_is_one_line(
    arguments: tuple[str, ...], words: tuple[str, ...], tmp_path: Path
) -> None:
    done = shell(tmp_path, *arguments)
    refused(done, *words)
    assert done.err.count("\n") == 1
    assert done.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flag", ["--help", "-h", "help"])
def test_help_lists_the_commands(flag: str, tmp_path: Path) -> None:
    done = shell(tmp_path, flag)
    assert (done.code, done.err) == (0, "")
    assert all(f"  {command} " in done.out for command in cli.COMMANDS)
    assert list(tmp_path.iterdir()) == []


def test_help_of_a_command_lists_its_groups_and_its_configuration(tmp_path: Path) -> None:
    done = shell(tmp_path, "fit", "--help")
    assert done.code == 0
    assert done.out.startswith("python -m lightning_arrcoc fit [key=value ...]")
    assert "logger: auto, csv" in done.out
    assert "backbone: tiny" in done.out
    assert list(tmp_path.iterdir()) == []


def test_a_job_can_be_looked_at_without_running_it(tmp_path: Path) -> None:
    done = shell(tmp_path, "fit", "--cfg", "job", "experiment=debug", "trainer.max_steps=7")
    assert done.code == 0
    shown = yaml.safe_load(done.out)
    assert (shown["trainer"]["max_steps"], shown["picture_samples"]) == (7, 4)
    assert list(tmp_path.iterdir()) == []


def test_a_misspelt_key_is_found_before_torch_is_imported(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command_line("fit", "modle=tiny")[1:]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 2
    assert "error: Unknown key 'modle'. Did you mean 'model'?" in done.stderr
    assert "omegaconf" in imported, "the list of imports is there"
    assert not imported & {"torch", "lightning", "lightning.pytorch", "transformers"}


@pytest.mark.parametrize("flag", ["debug=true", "++debug=true"])
def test_with_debug_a_slip_shows_its_traceback(flag: str, tmp_path: Path) -> None:
    done = shell(tmp_path, "fit", flag, "modle=tiny")
    assert done.code not in (0, 2)
    assert "Traceback" in done.err
    assert "Unknown key 'modle'" in done.err


def test_with_debug_an_error_inside_a_command_shows_its_traceback(here: Here) -> None:
    done = here("validate", "debug=true")
    assert done.code == 1
    assert "Traceback" in done.err
    assert "No checkpoint was named" in done.err


# ------------------------------------------------------------------------------- a real, short run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Two steps of training and the contest, shared by the tests below."""
    return shell(tmp_path_factory.mktemp("trained"), "fit", *SMALL, "trainer.max_steps=2")


@pytest.fixture(scope="module")
def run_folder(trained: Done) -> Path:
    (folder,) = (trained.folder / "outputs" / "fit").iterdir()
    return folder


@pytest.fixture(scope="module")
def checkpoint(run_folder: Path) -> Path:
    return run_folder / "checkpoints" / "last.ckpt"


def test_fit_trains_and_prints_one_table(trained: Done) -> None:
    assert trained.code == 0, trained.err
    assert "Traceback" not in trained.err
    assert "error:" not in trained.err
    assert trained.out.count("Exact match at equal visual tokens") == 1
    for row in ("full", "ARR-COC", "random", "downsampled"):
        assert re.search(rf"│ {row} .*\d\.\d", trained.out), row


def test_fit_writes_below_outputs_only(trained: Done) -> None:
    assert {path.name for path in trained.folder.iterdir()} == {"outputs"}


def test_fit_leaves_picture_results_and_checkpoint(run_folder: Path, trained: Done) -> None:
    assert f"picture: {run_folder / 'kept.png'}" in trained.out.replace("\n", "")
    with Image.open(run_folder / "kept.png") as picture:
        picture.load()
        assert min(picture.size) > 400
    results = json.loads((run_folder / "results.json").read_text())
    assert results["budgets"] == [0.25, 0.1, 0.05]
    kept = [result["tokens"] for result in results["exact_match"]["ARR-COC"]]
    assert kept == [36, 14, 7]
    assert [result["tokens"] for result in results["exact_match"]["full"]] == [144]
    assert (run_folder / "checkpoints" / "last.ckpt").is_file()


def test_the_checkpoint_holds_what_was_trained_and_the_backbones_name_but_not_the_backbone(
    checkpoint: Path,
) -> None:
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["global_step"] == 2
    assert saved["state_dict"]
    assert all(name.startswith("arr_coc.") for name in saved["state_dict"])
    assert all(isinstance(value, str | int) for value in saved["backbone"].values())
    assert len(saved["backbone"]["weights_sha256"]) == 64
    trained_values = sum(value.numel() for value in saved["state_dict"].values())
    assert checkpoint.stat().st_size < 4 * 4 * trained_values, "weights and two moments"


def test_validate_prints_what_it_measured(here: Here, checkpoint: Path) -> None:
    done = here("validate", *SMALL, f"ckpt={checkpoint}")
    assert done.code == 0, done.err
    assert re.search(r"val/exact_match │ [01]\.\d{4}", done.out)
    assert re.search(r"val/kept +│ 0\.0972", done.out)  # 14 of 144
    assert done.written == []


def test_test_measures_the_very_weights_that_fit_ended_with(
    here: Here, checkpoint: Path, run_folder: Path
) -> None:
    done = here("test", *SMALL, f"ckpt={checkpoint}", "picture_samples=0")
    assert done.code == 0, done.err
    assert "Exact match at equal visual tokens" in done.out
    (name,) = done.written
    assert name.endswith("results.json")
    again = json.loads((done.folder / name).read_text())["exact_match"]
    before = json.loads((run_folder / "results.json").read_text())["exact_match"]
    for who in ("full", "ARR-COC", "downsampled"):  # random cells depend on what was drawn before
        assert again[who] == before[who]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.new("RGB", (300, 200), (200, 10, 10)).save(path)
    return path


def test_predict_answers_about_a_picture_of_ones_own(
    here: Here, checkpoint: Path, photo: Path
) -> None:
    done = here(
        "predict", *SMALL, f"ckpt={checkpoint}", f"image={photo}", "question=Which digit is red?"
    )
    assert done.code == 0, done.err
    assert re.search(r"^answer: ", done.out, re.MULTILINE)
    assert re.search(r"^tokens:  5 of 54$", done.out, re.MULTILINE)  # 6 x 9 cells
    (name,) = done.written
    assert f"picture: {done.folder / name}" in done.out
    with Image.open(done.folder / name) as picture:
        assert picture.format == "PNG"


def test_predict_explains_a_picture_of_ones_own(here: Here, checkpoint: Path, photo: Path) -> None:
    done = here(
        "predict", *SMALL, f"ckpt={checkpoint}", f"image={photo}", "question=Which digit is red?",
        "explain=true",
    )  # fmt: skip
    assert done.code == 0, done.err
    sheet, picture = done.written
    assert Path(sheet).parent == Path(picture).parent
    assert (Path(sheet).name, Path(picture).name) == ("explained.png", "prediction.png")
    assert f"sheet:   {done.folder / sheet}" in done.out
    with Image.open(done.folder / sheet) as drawn:
        assert drawn.format == "PNG"
        drawn.load()
        assert min(drawn.size) > 800


def test_predict_explains_the_first_of_the_test_split(here: Here, checkpoint: Path) -> None:
    done = here("predict", *SMALL, f"ckpt={checkpoint}", "explain=true", "explain_samples=2")
    assert done.code == 0, done.err
    *sheets, answers = done.written
    assert [Path(sheet).name for sheet in sheets] == ["0001.png", "0002.png"]
    assert {Path(sheet).parent for sheet in sheets} == {Path(answers).parent / "explained"}
    assert f"2 sheets: {done.folder / Path(sheets[0]).parent}" in done.out
    assert len((done.folder / answers).read_text().splitlines()) == 8


@pytest.mark.parametrize(
    "question",
    ["What's red, and where?", "Is it (really) 5 = five?", "Is $5 more than {4?", "2024", "Ünï?"],
)
def test_predict_takes_a_question_as_people_write_it(
    question: str, here: Here, checkpoint: Path, photo: Path
) -> None:
    done = here("predict", *SMALL, f"ckpt={checkpoint}", f"image={photo}", f"question={question}")
    assert done.code == 0, done.err


@pytest.mark.parametrize("name", ["step=2.ckpt", "with space.ckpt", "copy (1).ckpt"])
def test_a_checkpoint_may_have_any_name(
    name: str, here: Here, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(checkpoint.read_bytes())
    assert here("validate", *SMALL, f"ckpt={tmp_path / name}").code == 0


def test_predict_writes_an_answer_a_line_for_the_test_split(here: Here, checkpoint: Path) -> None:
    done = here("predict", *SMALL, f"ckpt={checkpoint}")
    assert done.code == 0, done.err
    (name,) = done.written
    lines = [json.loads(line) for line in (done.folder / name).read_text().splitlines()]
    assert len(lines) == 8
    assert all(set(line) == {"answer", "truth", "tokens", "of"} for line in lines)
    assert {(line["tokens"], line["of"]) for line in lines} == {(14, 144)}


def test_fit_resumes_from_a_checkpoint(here: Here, checkpoint: Path) -> None:
    done = here(
        "fit", *SMALL, f"ckpt={checkpoint}", "trainer.max_steps=3", "picture_samples=0",
        "trainer.limit_test_batches=1", "logger=none",
    )  # fmt: skip
    assert done.code == 0, done.err
    (name,) = [name for name in done.written if name.endswith("last.ckpt")]
    before = torch.load(checkpoint, weights_only=True)
    after = torch.load(done.folder / name, weights_only=True)
    assert (before["global_step"], after["global_step"]) == (2, 3)
    steps = {float(state["step"]) for state in after["optimizer_states"][0]["state"].values()}
    assert steps == {3.0}, "the optimizer goes on where it stopped"


def test_a_second_phase_begins_with_weights_and_its_adapters_are_found_again(
    here: Here, checkpoint: Path, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    lora = "model/lora=default"
    fitted = here(
        "fit", *SMALL, f"weights={checkpoint}", "training/objective=hard", lora,
        "trainer.max_steps=1", "data.batch_size=1", "data.train.turns=1", "picture_samples=0",
        "trainer.limit_test_batches=1", "logger=none",
    )  # fmt: skip
    assert fitted.code == 0, fitted.err
    assert "Training arr_coc and LoRA:" in fitted.out
    folder = next((fitted.folder / "outputs" / "fit").iterdir()) / "checkpoints"
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {
        file.name for file in (folder / "adapter").iterdir()
    }
    saved = torch.load(folder / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 1, "a run of its own"
    last = f"ckpt={folder.rename(tmp_path / 'checkpoints') / 'last.ckpt'}"
    assert here("validate", *SMALL, lora, last).code == 0
    without = here("validate", *SMALL, last)
    assert without.code == 2
    assert "model/lora=default" in without.error


# --------------------------------------------------------------------------------- bad checkpoints


def test_a_run_goes_on_or_begins_but_not_both(here: Here, checkpoint: Path) -> None:
    done = here("fit", *SMALL, f"ckpt={checkpoint}", f"weights={checkpoint}")
    refused(done, "ckpt= goes on with a run, weights= begins a new one")


@pytest.mark.parametrize(
    ("path", "words"), [("nowhere.ckpt", "No checkpoint at"), ("s3://b/a.ckpt", "is a URL")]
)
def test_weights_that_are_not_there_are_named(path: str, words: str, here: Here) -> None:
    refused(here("fit", f"weights={path}"), words, path)


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_a_command_that_needs_a_checkpoint_says_where_to_find_one(command: str, here: Here) -> None:
    refused(here(command), "No checkpoint was named", "ckpt=outputs/fit", "last.ckpt")


@pytest.mark.parametrize("command", WITH_CHECKPOINT)
def test_a_checkpoint_that_is_not_there_is_named(command: str, here: Here) -> None:
    refused(
        here(command, *WORDS.get(command, ()), "ckpt=nowhere.ckpt"),
        "No checkpoint at 'nowhere.ckpt'",
    )


@pytest.mark.parametrize(
    "url", ["https://x.org/a.ckpt", "s3://bucket/a.ckpt", "file:///tmp/a.ckpt"]
)
def test_a_url_is_refused_as_a_checkpoint(url: str, here: Here) -> None:
    refused(here("validate", f"ckpt={url}"), "is a URL; download it first")


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_the_canary_sings_where_pickle_is_trusted(tmp_path: Path) -> None:
    """Negative control: the two tests below would notice."""
    pickle.loads(pickle.dumps(Canary(tmp_path / "canary")))
    assert (tmp_path / "canary").is_dir()


@pytest.mark.parametrize("form", ["pickle", "torch", "legacy torch"])
@pytest.mark.parametrize("command", WITH_CHECKPOINT)
def test_a_checkpoint_that_would_run_code_is_refused_without_running_it(
    command: str, form: str, here: Here, tmp_path: Path
) -> None:
    path, content = tmp_path / "evil.ckpt", {"state_dict": Canary(tmp_path / "canary")}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "torch")
    done = here(command, *WORDS.get(command, ()), f"ckpt={path}")
    assert not (tmp_path / "canary").exists()
    refused(done, "evil.ckpt", "is damaged or no checkpoint", "Choose another")


def test_nobody_is_advised_to_load_a_checkpoint_unsafely(here: Here, tmp_path: Path) -> None:
    torch.save({"state_dict": Canary(tmp_path / "canary")}, tmp_path / "evil.ckpt")
    assert "weights_only" not in here("validate", f"ckpt={tmp_path / 'evil.ckpt'}").error


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, b"PK\x03\x04 broken zip"])
def test_a_file_that_is_no_checkpoint_is_refused(
    content: bytes, here: Here, tmp_path: Path
) -> None:
    (tmp_path / "a.ckpt").write_bytes(content)
    refused(here("validate", f"ckpt={tmp_path / 'a.ckpt'}"), "is damaged or no checkpoint")


def test_half_a_checkpoint_is_refused(here: Here, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_bytes(checkpoint.read_bytes()[:-5000])
    refused(here("validate", f"ckpt={tmp_path / 'a.ckpt'}"), "is damaged or no checkpoint")


@pytest.mark.parametrize(
    "content", [{"weights": 1}, [1, 2], {"state_dict": {}}], ids=["no state", "list", "bare state"]
)
def test_a_file_of_torch_that_no_fit_wrote_is_refused(
    content: object, here: Here, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "a.ckpt")
    done = here("validate", *SMALL, f"ckpt={tmp_path / 'a.ckpt'}")
    refused(done, "a.ckpt", "expected a checkpoint made by fit")


@pytest.mark.parametrize("command", [one for one in WITH_CHECKPOINT if one != "serve"])
def test_a_checkpoint_of_another_architecture_is_refused(
    command: str, here: Here, checkpoint: Path, tmp_path: Path
) -> None:
    # But for serve, which loads in another process and refuses these random weights before.
    saved = torch.load(checkpoint, weights_only=True)
    name = "arr_coc.null_query"
    width = saved["state_dict"][name].shape
    saved["state_dict"][name] = torch.zeros(7, 7)
    torch.save(saved, tmp_path / "other.ckpt")
    other = f"ckpt={tmp_path / 'other.ckpt'}"
    done = here(command, *SMALL, *WORDS.get(command, ()), other)
    refused(done, "another architecture", f"{name}: (7, 7) in the checkpoint, {tuple(width)} here")


def test_a_checkpoint_of_other_channels_is_refused_with_a_table(
    here: Here, checkpoint: Path
) -> None:
    channels = "model.arr_coc.texture.channels=[red,green,motion]"
    done = here("validate", *SMALL, f"ckpt={checkpoint}", channels)
    assert done.code == 2
    rows = [" ".join(line.split()) for line in done.err.splitlines()]
    assert "texture.channels.blue 2 absent" in rows
    assert "texture.channels.motion absent 2" in rows


def test_the_last_verified_checkpoint_may_be_asked_for(
    here: Here, checkpoint: Path, tmp_path: Path
) -> None:
    """Past a damaged one; only a run that goes on sets that aside."""
    (tmp_path / "a.ckpt").write_bytes(checkpoint.read_bytes())
    (tmp_path / "last.ckpt").write_bytes(checkpoint.read_bytes()[:-9])
    assert here("validate", *SMALL, f"ckpt={tmp_path}/last_verified").code == 0
    with pytest.warns(UserWarning, match=r"last\.ckpt is damaged .* was renamed to"):
        done = here(
            "fit", *SMALL, f"ckpt={tmp_path}/last_verified", "trainer.max_steps=3",
            "data.test=null", "logger=none",
        )  # fmt: skip
    assert done.code == 0, done.err
    assert {path.name for path in tmp_path.glob("*.ckpt*")} == {"a.ckpt", "last.ckpt.corrupt"}
    (name,) = [name for name in done.written if name.endswith("last.ckpt")]
    assert torch.load(done.folder / name, weights_only=True)["global_step"] == 3


def test_the_same_words_begin_a_run_and_go_on_with_it(here: Here) -> None:
    """As a queue does that starts a job again."""
    words = ("fit", *SMALL, "hydra.run.dir=run", "ckpt=last_verified", "data.test=null",
             "logger=none", "callbacks.latest.every_n_train_steps=1")  # fmt: skip
    with pytest.warns(UserWarning, match="no checkpoint yet: the run starts anew"):
        first = here(*words, "trainer.max_steps=1")
    second = here(*words, "trainer.max_steps=2")
    assert (first.code, second.code) == (0, 0), second.err
    saved = torch.load(second.folder / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 2


def test_a_checkpoint_of_another_backbone_is_refused(here: Here, checkpoint: Path) -> None:
    """Another seed draws other random weights."""
    done = here("test", *SMALL, f"ckpt={checkpoint}", "seed=1")
    refused(done, "belongs to the backbone", "weights_sha256", "Set model.backbone")


# -------------------------------------------------------------------------- bad pictures, questions


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("image={photo}",), ("a picture and a question together", "question=")),
        (("question=why",), ("a picture and a question together", "image=")),
        (("image={photo}", "question="), ("question is empty", "Which digit is red?")),
        (("image={photo}", "question='  '"), ("question is empty",)),
        (("image=nowhere.png", "question=why"), ("No picture 'nowhere.png'",)),
        (("image={folder}", "question=why"), ("No picture",)),
        (("image={broken}", "question=why"), ("broken.png", "cannot be read as PNG, JPEG, WEBP")),
        (("image={text}", "question=why"), ("text.png", "cannot be read as PNG, JPEG, WEBP")),
        (("image={bitmap}", "question=why"), ("a.bmp", "cannot be read as PNG, JPEG, WEBP")),
    ],
)
def test_predict_refuses_what_it_cannot_answer_about(
    arguments: tuple[str, ...], words: tuple[str, ...], here: Here, checkpoint: Path, photo: Path
) -> None:
    places = {name: photo.parent / f"{name}.png" for name in ("broken", "text")}
    places["broken"].write_bytes(photo.read_bytes()[:200])
    places["text"].write_text("no picture")
    places |= {"photo": photo, "folder": photo.parent, "bitmap": photo.parent / "a.bmp"}
    Image.new("RGB", (64, 64)).save(places["bitmap"])
    filled = [argument.format(**places) for argument in arguments]
    done = here("predict", *SMALL, f"ckpt={checkpoint}", *filled)
    refused(done, *words)
    assert done.err.count("\n") == 1


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """`fit` does nothing but note what would start it again; seed 9 is a mistake."""
    argv: list[list[str]] = []

    def fit(config: Any) -> int:
        argv.append(list(sys.argv))
        if config.seed == 9:
            raise ValueError("nine is no seed")
        return 0

    monkeypatch.setattr(commands, "fit", fit)
    return argv


# ------------------------------------------------------------------------------------- bad settings


@pytest.mark.parametrize("budget", ["0", "-3", "0.0", "1.5"])
def test_a_budget_that_is_none_says_what_one_is(budget: str, here: Here) -> None:
    done = here("fit", *SMALL, f"model.budget={budget}")
    refused(done, "budget=", "expected a number of tokens from 1 up", "a share of them")


def test_a_budget_beyond_the_picture_names_both_numbers(
    here: Here, checkpoint: Path, photo: Path
) -> None:
    done = here(
        "predict", *SMALL, f"ckpt={checkpoint}", f"image={photo}", "question=why",
        "model.budget=100000",
    )  # fmt: skip
    refused(done, "budget=100000", "54 visual tokens", "Choose 1 to 54")


def test_a_budget_beyond_the_picture_stops_fit_without_a_checkpoint(here: Here) -> None:
    done = here("fit", *SMALL, "model.budget=100000")
    refused(done, "budget=100000", "144 visual tokens", "Choose 1 to 144")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.backbone=nowhere", ("No backbone 'nowhere'", "'tiny'")),
        ("model.select=sometimes", ("before_vision",)),
        ("model.arr_coc.texture.channels=all", ("channels='all'",)),
        ("data.batch_size=0", ("batch_size=0",)),
        ("data.test.length=-1", ("length",)),
        ("callbacks.checkpoint.mode=most", ("most",)),
        ("trainer.accelerator=quantum", ("quantum",)),
        ("picture_samples=-1", ("picture_samples=-1",)),
        ("seed=-1", ("-1",)),
    ],
)
def test_what_a_part_refuses_is_one_line_in_its_own_words(
    override: str, words: tuple[str, ...], here: Here
) -> None:
    done = here("fit", *SMALL, override)
    refused(done, *words)
    assert "Error in call to target" not in done.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_that_is_not_there_is_one_line(here: Here) -> None:
    refused(here("fit", "trainer=gpu", "logger=none"), "gpu")


def test_a_folder_that_cannot_be_written_to_is_one_line(here: Here, tmp_path: Path) -> None:
    """A file stands where the folder should be: root may write anywhere else."""
    (tmp_path / "file").write_text("in the way")
    done = here("fit", *SMALL, f"hydra.run.dir={tmp_path / 'file' / 'below'}")
    refused(done, str(tmp_path / "file"))


def test_a_folder_for_sweeps_that_cannot_be_written_to_is_one_line(
    here: Here, recorded: list[list[str]], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    done = here("fit", "-m", "seed=1,2", f"hydra.sweep.dir={tmp_path / 'file' / 'below'}")
    refused(done, str(tmp_path / "file"))
    assert recorded == []


def test_a_refused_command_leaves_no_folder_behind(here: Here) -> None:
    done = here("validate", "ckpt=nowhere.ckpt")
    refused(done)
    assert list(done.folder.iterdir()) == []


OFFLINE = """
import runpy, socket, sys

def refuse(self, address):
    if self.family != socket.AF_UNIX:
        raise SystemExit(f"the network was touched: {address}")

socket.socket.connect = socket.socket.connect_ex = refuse
sys.argv = ["lightning_arrcoc", *sys.argv[1:]]
runpy.run_module("lightning_arrcoc", run_name="__main__", alter_sys=True)
"""


def test_fit_touches_no_network_by_itself(tmp_path: Path) -> None:
    """Also where nothing in the environment keeps libraries from it."""
    free = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "WANDB_MODE")}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, "fit", "experiment=debug", "trainer.max_steps=1"],
        cwd=tmp_path, env=free, capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("results.json"))


# ----------------------------------------------------------------------------------------- a doctor


def test_the_doctor_times_loaders_and_names_the_best_ready_to_type(here: Here) -> None:
    done = here(
        "doctor", "loader", "data.batch_size=2", "data.train.turns=1", "data.train.digits=2",
        "data.train.canvas_px=[96,96]", "data.train.families=[place]", "rounds=1", "batches=1",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert re.search(r"│ \*? +│ 0 .*\d\.\d +│", done.out)
    (best,) = re.findall(r"^Best: (data\.num_workers=\d.*)$", done.out, re.MULTILINE)
    assert check_overrides("fit", best.split())
    assert list(done.folder.iterdir()) == [], "it leaves nothing behind"


def test_the_doctor_refuses_a_source_too_short_to_be_timed(here: Here) -> None:
    done = here("doctor", "loader", "data.train.length=8")
    refused(done, "The training split has 1 batches", "so few samples need no workers")


# -------------------------------------------------------------------------------- several processes


def test_what_starts_a_job_again_begins_with_the_command(
    here: Here, recorded: list[list[str]]
) -> None:
    assert here("fit", "experiment=debug", "trainer.limit_train_batches=2").code == 0
    program = "lightning_arrcoc"
    assert recorded == [[program, "fit", "experiment=debug", "+trainer.limit_train_batches=2"]]


def test_what_starts_a_job_of_a_sweep_again_is_that_job_alone(
    here: Here, recorded: list[list[str]]
) -> None:
    done = here("fit", "-m", "seed=1,2", "experiment=debug", "trainer.limit_train_batches=2,3")
    assert done.code == 0, done.err
    assert [argv[1] for argv in recorded] == ["fit"] * 4
    assert [sorted(argv[2:]) for argv in recorded] == [
        [f"+trainer.limit_train_batches={batches}", "experiment=debug", f"seed={seed}"]
        for seed in (1, 2)
        for batches in (2, 3)
    ]


def test_the_flag_for_a_sweep_may_stand_anywhere(here: Here, recorded: list[list[str]]) -> None:
    done = here("fit", "experiment=debug", "-m", "seed=1,2")
    assert done.code == 0, done.err
    assert len(recorded) == 2


def test_a_sweep_goes_on_behind_a_mistake_and_tells_of_it_at_the_end(
    here: Here, recorded: list[list[str]]
) -> None:
    done = here("fit", "-m", "seed=1,9,2")
    assert len(recorded) == 3
    assert done.code == 2
    assert done.error == "error: nine is no seed"


def test_an_interrupt_inside_a_command_is_130(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(config: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "fit", interrupted)
    done = here("fit")
    assert done.code == cli.INTERRUPTED == 130
    assert "Traceback" not in done.err


@pytest.mark.parametrize(("rank", "code"), [("0", 143), ("1", 0)])
def test_sigterm_is_told_by_the_first_process(
    rank: str, code: int, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning's launcher would kill the first one if another ended with a code."""

    def terminated(config: Any) -> int:
        raise SIGTERMException

    monkeypatch.setattr(commands, "fit", terminated)
    monkeypatch.setenv("LOCAL_RANK", rank)
    assert here("fit").code == code


def test_an_interrupt_ends_a_sweep(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []

    def interrupted(config: Any) -> int:
        begun.append(config.seed)
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "fit", interrupted)
    done = here("fit", "-m", "seed=1,2,3")
    assert (done.code, begun) == (130, [1])


def test_an_interrupt_before_a_command_is_130(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lightning_arrcoc.config.check_overrides", interrupted)
    assert here("fit").code == 130


def test_control_c_while_training_exits_with_130(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command_line(
            "fit", *SMALL, "trainer.max_steps=100000", "trainer.val_check_interval=100000",
            "trainer.log_every_n_steps=1", "logger=csv", "logger.flush_logs_every_n_steps=1",
        ),
        cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    deadline = time.monotonic() + PATIENCE_S
    while not list(tmp_path.rglob("metrics.csv")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "Traceback" not in shown


def test_two_processes_train_together_by_lightnings_own_launcher(tmp_path: Path) -> None:
    done = shell(
        tmp_path, "fit", *SMALL, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2",
        "trainer.max_steps=2", "picture_samples=0", "trainer.limit_test_batches=1",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "MEMBER: 2/2" in done.err
    assert done.out.count("Exact match at equal visual tokens") == 1
    (folder,) = (tmp_path / "outputs" / "fit").iterdir()
    assert (folder / "results.json").is_file()
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
    assert {path.name for path in (tmp_path / "outputs").iterdir()} == {"fit"}


def test_a_sweep_runs_each_job_in_a_folder_of_its_own(tmp_path: Path) -> None:
    done = shell(
        tmp_path, "fit", "-m", *SMALL, "seed=1,2", "trainer.max_steps=1", "picture_samples=0",
        "trainer.limit_test_batches=1", "logger=none",
    )  # fmt: skip
    assert done.code == 0, done.err
    (sweep,) = (tmp_path / "outputs" / "fit").iterdir()
    seeds = [
        yaml.safe_load((sweep / job / ".hydra" / "config.yaml").read_text())["seed"]
        for job in ("0", "1")
    ]
    assert seeds == [1, 2]
    weights = [
        torch.load(sweep / job / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for job in ("0", "1")
    ]
    name = "arr_coc.null_query"
    assert weights[0].keys() == weights[1].keys()
    assert not torch.equal(weights[0][name], weights[1][name])
