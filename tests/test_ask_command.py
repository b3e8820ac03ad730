"""`python -m lightning_arrcoc ask picture question`: two words in, the answer out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image

from lightning_arrcoc import ArrCocModule, ArrCocQwen3VL, cli
from lightning_arrcoc.ask_words import named_words
from lightning_arrcoc.config import check_overrides, config_dir
from lightning_arrcoc.objectives import HardChoice
from lightning_arrcoc.plugins.checkpoint_file import write_checkpoint
from lightning_arrcoc.plugins.manifest import STAMPS
from lightning_arrcoc.vlm import saved_folder
from lightning_arrcoc.vlm.identity import backbone_identity

pytestmark = pytest.mark.filterwarnings("ignore")  # the user's program has them as lines
Done = tuple[int, str, str]
ASKED = ("picture.png", "Which digit is red?", "max_new_tokens=3")


@pytest.fixture(scope="module")
def model() -> ArrCocQwen3VL:
    torch.manual_seed(0)
    return ArrCocQwen3VL.from_pretrained("tiny", dtype="float32").eval()


@pytest.fixture
def ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    monkeypatch.chdir(tmp_path)
    Image.radial_gradient("L").resize((128, 128)).convert("RGB").save("picture.png")

    def called(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["lightning_arrcoc", "ask", *words])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        code = left.value.code
        assert isinstance(code, int)
        return code, *capfd.readouterr()

    return called


def save(model: ArrCocQwen3VL, path: Path, **more: object) -> None:
    path.parent.mkdir(parents=True)
    own = ArrCocModule(model, objective=HardChoice(seed=0)).architecture()
    weights = {f"arr_coc.{name}": value for name, value in model.arr_coc.state_dict().items()}
    content: dict[str, object] = {
        "state_dict": weights,
        "backbone": backbone_identity(model.backbone),
        "pytorch-lightning_version": "2.6.6",
        STAMPS: {"architecture": {"own": own}},
    }
    write_checkpoint({**content, **more}, path)


def test_without_a_checkpoint_the_backbone_answers_from_all_tokens(
    ask: Callable[..., Done], tmp_path: Path
) -> None:
    code, out, err = ask(*ASKED)
    assert code == 0, err
    assert len(out.splitlines()) == 1
    assert "16 of 16 visual tokens; no checkpoint in outputs/fit, so the backbone alone" in err
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]  # nothing was written


def test_a_budget_without_a_checkpoint_is_spent_untrained_and_says_so(
    ask: Callable[..., Done],
) -> None:
    code, _, err = ask(*ASKED, "budget=5")
    assert (code, "5 of 16 visual tokens" in err, "untrained" in err) == (0, True, True)


def test_the_newest_run_is_taken(
    ask: Callable[..., Done], tmp_path: Path, model: ArrCocQwen3VL
) -> None:
    for name in ("b", "a"):  # by time, not by name
        save(model, tmp_path / "outputs" / "fit" / name / "checkpoints" / "last.ckpt")
    code, _, err = ask(*ASKED, "model.budget=0.25")
    assert code == 0, err
    assert "4 of 16 visual tokens; outputs/fit/a/checkpoints/last.ckpt" in err


def test_a_checkpoint_may_be_named_and_so_may_an_exported_folder(
    ask: Callable[..., Done], tmp_path: Path, model: ArrCocQwen3VL, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> str:
        raise AssertionError("a file's name is no hub id")

    monkeypatch.setattr(saved_folder, "hf_hub_download", refused)
    save(model, tmp_path / "x" / "one.ckpt")
    code, answer, err = ask(*ASKED, "ckpt=x/one.ckpt", "budget=3")
    assert (code, "3 of 16 visual tokens; x/one.ckpt" in err) == (0, True)
    model.save_pretrained(tmp_path / "folder")
    code, out, err = ask(*ASKED, "ckpt=folder", "budget=3")
    assert (code, out, "3 of 16 visual tokens; folder" in err) == (0, answer, True)
    model.budget = 6  # a folder's own, unless it is said otherwise
    model.save_pretrained(tmp_path / "six")
    model.budget = 0.1
    assert "6 of 16 visual tokens" in ask(*ASKED, "ckpt=six")[2]
    assert "4 of 16 visual tokens" in ask(*ASKED, "ckpt=six", "model.budget=4")[2]
    assert ask(*ASKED, "ckpt=six", "model.dtype=bfloat16")[0] == 0
    code, _, err = ask(*ASKED, "ckpt=six", "model.backbone=elsewhere")
    assert (code, "this is read off 'six'" in err) == (2, True)
    code, _, err = ask(*ASKED, "ckpt=x/one.ckpt", "model.arr_coc.query_blind=true")
    assert (code, "this is read off 'x/one.ckpt'" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "ask lacks a picture or a question"),
        (("picture.png",), "1 of two words"),
        (("picture.png", "What?", "is", "it"), "4 of two words"),
        (("picture.png", ""), "ask lacks a picture or a question"),
        (("nowhere.png", "What?"), "No picture 'nowhere.png'"),
        (("picture.png", "What?", "ckpt=nowhere.ckpt"), "No checkpoint at 'nowhere.ckpt'"),
        (("picture.png", "What?", "budget=17"), "budget=17, but this sample has 16"),
        (("picture.png", "What?", "budget=lots"), "budget='lots'"),
        (("picture.png", "What?", "max_new_tokens=0"), "expected 1 or more"),
        (("picture.png", "What?", "bugdet=3"), "Did you mean 'budget'?"),
        (("picture.png", "What?", "-m"), "one question"),
        (("picture.png", "What?", "--cgf"), "Unknown flag '--cgf'"),
        (("picture.png", "What?", "model.arr_coc.texture.channels=[red]"), "no trained network"),
        (("picture.png", "What?", "model/lora=default", "budget=3"), "no trained network"),
    ],
)
def test_wrong_words_are_one_line(
    words: tuple[str, ...], said: str, ask: Callable[..., Done]
) -> None:
    code, out, err = ask(*words)
    assert (code, out) == (2, "")
    assert [said in line for line in err.splitlines() if line.startswith("error:")] == [True]


def test_a_checkpoint_of_another_backbone_or_architecture_is_refused(
    ask: Callable[..., Done], tmp_path: Path, model: ArrCocQwen3VL
) -> None:
    other = {**backbone_identity(model.backbone), "weights_sha256": "0"}
    save(model, tmp_path / "x" / "backbone.ckpt", backbone=other)
    code, _, err = ask(*ASKED, "ckpt=x/backbone.ckpt")
    assert (code, "belongs to the backbone" in err) == (2, True)
    save(model, tmp_path / "y" / "none.ckpt", state_dict={"weight": torch.zeros(1)})
    code, _, err = ask(*ASKED, "ckpt=y/none.ckpt")
    assert (code, "holds no weights of ARR-COC" in err) == (2, True)


def asked(*words: str) -> tuple[str, str]:
    """The picture and the question that reach the command."""
    chosen = [word for word in named_words(list(words)) if "=" in word]
    overrides = OverridesParser.create().parse_overrides(chosen)
    config = OmegaConf.create({str(one.key_or_group): one.value() for one in overrides})
    return config.image, config.question


@pytest.mark.parametrize(
    "text",
    [
        '"Red" or "green"', "'Red' or 'green'", '"Red"', "a=b?", "a=b.png", "-3 + 5?", "--x", "~5?",
        "null", "true", "42", "2+2=4?", "colour=red?", "+1=?", "${oc.env:HOME}", "back\\\n",
    ],
)  # fmt: skip
def test_picture_and_question_are_taken_as_they_are(text: str) -> None:
    assert asked("p.png", text) == ("p.png", text)
    assert asked("budget=3", text, "Why, then?", "--cfg", "job") == (text, "Why, then?")


def is_text(text: str) -> bool:
    """Neither a word that sets or switches something, nor OmegaConf's for a missing value."""
    return named_words([text] * 2) != [text] * 2 and text not in ("???", "-m", "--multirun")


@settings(max_examples=50, deadline=None)
@given(text=st.text(st.sampled_from("\\'\"${}?=,~+- a\n"), min_size=1, max_size=9).filter(is_text))
def test_any_letters_survive(text: str) -> None:
    assert asked("p.png", text) == ("p.png", text)


def test_words_that_set_something_and_flags_are_no_picture_or_question() -> None:
    two, named = ["p.png", "x"], ["image='p.png'", "question='x'"]
    for more in (["--cfg", "job"], ["budget=3"], ["hydra.verbose=true"], ["+model.new=1"]):
        assert named_words([*two, *more]) == named_words([*more, *two]) == [*named, *more]
    assert named_words(["image=p.png", "question=x"]) == ["image=p.png", "question=x"]
    assert named_words(["--help"]) == ["--help"]


def test_two_equal_words_are_two() -> None:
    assert named_words(["a", "a"]) == ["image='a'", "question='a'"]


@pytest.mark.parametrize(
    "words",
    [("p.png", '"Red" or "${green}"\\'), ("image=p.png", 'question="Red" or "${green}"\\')],
)
def test_what_is_asked_is_the_same_behind_the_check(words: tuple[str, ...]) -> None:
    found = check_overrides("ask", named_words(list(words)))
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("ask", found)
    assert (config.image, config.question) == ("p.png", '"Red" or "${green}"\\')
