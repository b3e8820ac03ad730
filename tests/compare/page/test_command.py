"""The command, as far as it goes without a page."""

from __future__ import annotations

import json
import re
import socket
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest

from lightning_arrcoc import cli
from lightning_arrcoc.compare.page import command
from lightning_arrcoc.compare.page.examples import from_folder, of_digits
from lightning_arrcoc.compare.page.space import NEEDED, PACKAGE, requirements

HAS_GRADIO = find_spec("gradio") is not None


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Runs `compare` in an empty folder; gives its exit code and what it says on stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["lightning_arrcoc", "compare", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), capfd.readouterr().err

    return run


@pytest.fixture
def gradio(monkeypatch: pytest.MonkeyPatch):
    """Pretends that a version of it is installed, or none."""

    def pretend(version: str | None) -> None:
        monkeypatch.setattr(command, "find_spec", lambda _: version)
        monkeypatch.setattr(command.metadata, "version", lambda _: version)

    return pretend


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "No folder was named; expected checkpoints="),
        (("checkpoints=nowhere",), "checkpoints='nowhere' is no folder"),
        (("checkpoints=.", "mode=many"), "mode='many'; expected one of compare, single"),
        (("checkpoints=.", "checkpoint=one"), "checkpoint= is for mode=single"),
        (("checkpoints=.", "port=-1"), "port=-1; expected 0 or more"),
        (("checkpoints=.", "max_upload_mb=0"), "max_upload_mb=0; expected 1 or more"),
        (("checkpoints=.", "export=."), "name a folder that is new or empty"),
        (("chekpoints=.",), "Did you mean 'checkpoints'?"),
    ],
)
def test_a_mistake_is_told_in_one_line(words, said: str, here, gradio, tmp_path: Path) -> None:
    gradio("6.31.0")
    (tmp_path / "something.txt").write_text("there")
    code, told = here(*words)
    assert code == 2
    assert said in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(("version", "said"), [(None, "not installed"), ("6.15.0", ">=6.16")])
def test_without_gradio_it_says_what_to_install(version, said: str, here, gradio) -> None:
    gradio(version)
    code, told = here("checkpoints=.")
    assert code == 2
    assert said in told
    assert 'pip install "lightning-arrcoc[compare]"' in told


@pytest.mark.skipif(not HAS_GRADIO, reason="gradio is not installed")
def test_an_empty_folder_and_a_port_that_is_taken_are_told_at_once(here, tmp_path: Path) -> None:
    code, told = here("checkpoints=.", "port=0")
    assert (code, "There is no checkpoint below '.'" in told) == (2, True)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, told = here("checkpoints=.", f"port={taken.getsockname()[1]}")
    assert (code, "is not to be had" in told, "port=0" in told) == (2, True, True)


def test_examples_are_a_folders_first_pictures_with_their_questions(image, tmp_path: Path) -> None:
    for number in range(10):
        image.save(tmp_path / f"{number}.png")
    (tmp_path / "0.txt").write_text("What?\n")
    found = from_folder(tmp_path)
    assert len(found) == 8
    assert (found[0].question, found[0].title) == ("What?", "What?")
    assert (found[1].question, found[1].title) == ("", "1")
    (tmp_path / "0.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read"):
        from_folder(tmp_path)
    for folder in (tmp_path / "none", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match=r"no folder|no picture"):
            from_folder(folder)


def test_the_embedded_backbone_comes_with_questions_it_can_read() -> None:
    assert len({one.question for one in of_digits()}) == 6


def test_a_space_needs_what_the_page_imports_and_nothing_more() -> None:
    """Every package that a module of ours imports, of those the page loads."""
    import ast

    import lightning_arrcoc.compare.page.asking

    loaded = [
        module for name, module in list(sys.modules.items())
        if name.startswith(("lightning_arrcoc.compare", "lightning_arrcoc.vlm",
                            "lightning_arrcoc.relevance", "lightning_arrcoc.pictures"))
        and module is not command
        and not name.endswith(".make")  # laid down the embedded backbone
    ]  # fmt: skip
    assert lightning_arrcoc.compare.page.asking in loaded
    roots: set[str] = set()
    for module in loaded:
        for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text())):
            if isinstance(node, ast.Import):
                roots |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                roots.add(node.module.split(".")[0])
    named = {"PIL": "pillow", "lazy_loader": "lazy-loader"}
    with_gradio = {
        "gradio",
        "uvicorn",
        "fastapi",
        "peft",
        "torchao",
        "typing_extensions",
    }  # or only where asked for
    wanted = {named.get(root, root) for root in roots - sys.stdlib_module_names}
    assert wanted - with_gradio - {PACKAGE.name} <= set(NEEDED)


def test_requirements_are_what_is_installed_here_without_local_builds() -> None:
    lines = dict(line.split("==") for line in requirements(NEEDED).splitlines())
    assert lines["pillow"] == metadata.version("pillow")
    assert re.fullmatch(r"[\d.]+", lines["torch"])
    assert json.dumps(sorted(lines)) == json.dumps(sorted(NEEDED))
