"""The folder for a Space: whole, without a word of where it was made, and it runs elsewhere."""

from __future__ import annotations

import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from lightning_arrcoc.compare import CheckpointComparator
from lightning_arrcoc.compare.page.examples import Example
from lightning_arrcoc.compare.page.pictures import png_url
from lightning_arrcoc.compare.page.settings import SINGLE, PageSettings
from lightning_arrcoc.compare.page.space import NAME, new_folder, write_space
from lightning_arrcoc.plugins.manifest import STAMPS

from .conftest import Server, interrupted, started

QUESTION = "Which digit is red?"
MODEL = {"backbone": "tiny", "select": "before_vision", "budget": 0.5, "dtype": "float32"}
HAS_GRADIO = find_spec("gradio") is not None


@pytest.fixture
def export(comparator: CheckpointComparator, image: Image.Image, tmp_path: Path, monkeypatch):
    """Writes the space of a checkpoint; without Gradio its version is made up."""
    from lightning_arrcoc.compare.page import space

    if not HAS_GRADIO:
        usual = space.metadata.version
        monkeypatch.setattr(
            space.metadata, "version", lambda name: "6.31.0" if name == "gradio" else usual(name)
        )

    def write(checkpoint: str = "core", model: dict[str, Any] = MODEL) -> Path:
        target = tmp_path / "out" / "space"
        settings = PageSettings(mode=SINGLE, checkpoint=checkpoint)
        examples = [Example(png_url(image), QUESTION, QUESTION)]
        write_space(target, comparator, settings, model, examples, 50)
        return target

    return write


@pytest.mark.parametrize("checkpoint", ["core", "fixed", "adapted"])
def test_its_checkpoint_answers_as_the_one_it_was_made_of(
    checkpoint: str, export, comparator: CheckpointComparator, image: Image.Image, loaded
) -> None:
    folder = export(checkpoint)
    there = CheckpointComparator(loaded, max_new_tokens=3)
    assert there.register_folder(folder / "checkpoints") == [NAME]
    (one,) = there.compare(image, QUESTION, [NAME], 0.5)
    (other,) = comparator.compare(image, QUESTION, [checkpoint], 0.5)
    assert one.answer == other.answer
    for mine, theirs in zip(one.found, other.found, strict=True):
        assert mine is theirs is None or mine.equal(theirs)
    assert one.allocation.positions.equal(other.allocation.positions)
    assert ("peft" in (folder / "requirements.txt").read_text()) == (checkpoint == "adapted")


def test_nothing_in_it_tells_where_it_was_made(export, checkpoints: Path, tmp_path: Path) -> None:
    folder = export()
    secrets = {str(checkpoints), str(tmp_path), str(Path.home()), str(Path.cwd())}
    if len(socket.gethostname()) > 4:
        secrets.add(socket.gethostname())
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 100
    for path in files:
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content], path
    assert [path.name for path in folder.parent.iterdir()] == [
        "space"
    ]  # nothing half done beside it


def test_it_holds_small_weights_and_no_optimizer(export) -> None:
    content = torch.load(export() / "checkpoints" / f"{NAME}.ckpt", weights_only=True)
    assert set(content) == {"state_dict", "global_step", STAMPS, "backbone"}
    assert all(name.startswith("arr_coc.") for name in content["state_dict"])


def test_a_backbone_of_a_folder_is_copied_without_its_place(export, backbone_folder: Path) -> None:
    folder = export(model=MODEL | {"backbone": str(backbone_folder)})
    assert (folder / "backbone" / "config.json").is_file()
    assert list((folder / "backbone").glob("*.safetensors"))
    assert str(backbone_folder) not in (folder / "backbone" / "config.json").read_text()
    assert '"backbone": "backbone"' in (folder / "space.json").read_text()


def test_its_readme_says_what_the_host_wants_to_know(export) -> None:
    folder = export()
    _, head, text = (folder / "README.md").read_text().split("---\n")
    told = yaml.safe_load(head)
    assert (told["sdk"], told["app_file"]) == ("gradio", "app.py")
    assert told["python_version"] == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert isinstance(told["sdk_version"], str)
    assert "python app.py" in text
    assert not list(folder.rglob("__pycache__"))


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    assert new_folder(str(tmp_path / "there")) == tmp_path / "there"
    (tmp_path / "there" / "a").write_text("mine")
    with pytest.raises(ValueError, match="new or empty"):
        new_folder(str(tmp_path / "there"))
    with pytest.raises(ValueError, match="new or empty"):
        new_folder(str(tmp_path / "there" / "a"))


@pytest.mark.skipif(not HAS_GRADIO, reason="gradio is not installed")
def test_it_runs_from_another_folder_with_its_own_copy_of_the_code(
    export, image: Image.Image, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    export().rename(elsewhere)
    process, url = started(
        [sys.executable, "app.py"], elsewhere, PYTHONPATH="", PYTHONDONTWRITEBYTECODE="",
        GRADIO_SERVER_PORT="0",
    )  # fmt: skip
    try:
        server = Server(url, elsewhere, tmp_path / "none", process)
        assert "Ask about a picture" in server.ask("/").body.decode()
        _, told = server.question("hosted", png_url(image), QUESTION, ["full"], 50)
        assert f'data-name=\\"{NAME}\\"' in told  # whoever is asked for
        assert list((elsewhere / "lightning_arrcoc").rglob("*.pyc"))  # its own code ran
    finally:
        ended = interrupted(process)
    assert ended == 0
