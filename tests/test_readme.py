"""README keeps its word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lightning_arrcoc.cli import COMMANDS, PLAIN
from lightning_arrcoc.config import check_overrides, config_dir
from lightning_arrcoc.export import FORMATS
from lightning_arrcoc.vlm.loading import TINY_FOLDER

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
OF_FIT = ("running", "data", "devices", "drop_ins", "comparing", "numbers")  # pages of docs
EVERYTHING = "\n".join([README, *((ROOT / "docs" / f"{name}.md").read_text() for name in OF_FIT)])
NUMBERS = (ROOT / "docs" / "numbers.md").read_text()
PREDICT = ("ckpt=", "image=", "question=", "explain=", "explain_samples=")
EXPORT = ("format=", "compile=", "bits=")
SERVE = ("base_url=", "api_key=", "extra_body=")  # of OpenAI's client
OVERRIDE = re.compile(r"(?<![\w./])((?:[a-z_]+\.)*[a-z_]+=[\w./\-]+)")


def overrides_in_prose() -> list[str]:
    """Every key=value in inline code that a run of fit could take."""
    code = re.findall(r"`([^`\n]+)`", EVERYTHING)
    found = {word for text in code for word in OVERRIDE.findall(text)}
    return sorted(word for word in found if not word.startswith((*PREDICT, *EXPORT, *SERVE)))


@pytest.mark.skipif(not (TINY_FOLDER / "model.safetensors").exists(), reason="no weights yet")
@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_python_blocks_run(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block, "README.md", "exec"), {})
    assert ("14 of 144 tokens" in capsys.readouterr().out) == ("print(" in block)


@pytest.mark.parametrize("word", overrides_in_prose())
def test_overrides_in_the_text_are_valid(word: str) -> None:
    if word.startswith(
        ("budget=", "previous=", "async_save=", "detail=")
    ):  # keywords of Python calls
        return
    chosen = {"data.train.": ["data=jsonl"], "trainer.profiler.": ["profile=time"]}
    before = [words for key, words in chosen.items() if word.startswith(key)]
    assert check_overrides("fit", [*(before[0] if before else []), word])


ABLATIONS = re.findall(r"^(model[./]arr_coc.*?) +#", README, re.MULTILINE)


@pytest.mark.parametrize("line", ABLATIONS)
def test_parts_can_be_left_out_as_the_text_says(line: str) -> None:
    assert len(check_overrides("fit", line.split())) == len(line.split())


def test_the_text_says_how_to_leave_parts_out() -> None:
    assert len(ABLATIONS) == 5


def test_explaining_is_spelt_as_predict_takes_it() -> None:
    words = re.findall(r"explain\w*=\w+", README)
    assert "explain=true" in words
    assert check_overrides("predict", words) == words


def test_forms_of_export_are_spelt_as_it_takes_them() -> None:
    words = set(re.findall(r"`format=(\w+)`", README))
    assert words == set(FORMATS)


def test_the_text_names_some_overrides() -> None:
    assert len(overrides_in_prose()) > 5


def test_every_command_has_a_row() -> None:
    for command in (*COMMANDS, *PLAIN):
        assert f"| `{command}` |" in README


def test_the_two_lines_are_there_as_promised() -> None:
    assert 'pip install -c constraints.txt -e ".[demo]" && python -m lightning_arrcoc fit' in README
    assert 'pip install -c constraints.txt -e ".[dev]" && pytest' in README


def test_files_that_the_text_shows_exist() -> None:
    for target in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_way_to_learn_is_told_and_there_is_no_other() -> None:
    told = re.findall(
        r"^\| `(\w+)` \|", README.split("`training/objective=` |")[1].split("\n\n")[0], re.MULTILINE
    )
    files = (config_dir() / "training" / "objective").glob("*.yaml")
    assert sorted(told) == sorted(file.stem for file in files)


def test_figures_in_short_are_those_in_full() -> None:
    in_short = README.split("## Numbers")[1]
    figures = re.findall(r"(?<![\w.])\d+\.\d+(?![\w.])", in_short)
    assert len(figures) > 10
    assert [figure for figure in figures if figure not in NUMBERS] == []
