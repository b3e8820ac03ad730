"""A folder that can be hosted as a Hugging Face Space: one checkpoint, its page and our code."""

from __future__ import annotations

import base64
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning_arrcoc
from lightning_arrcoc.architecture import MAY_DIFFER
from lightning_arrcoc.compare.comparator import CheckpointComparator
from lightning_arrcoc.compare.page.examples import Example
from lightning_arrcoc.compare.page.rendering import render
from lightning_arrcoc.compare.page.settings import PageSettings
from lightning_arrcoc.plugins.checkpoint_file import write_checkpoint
from lightning_arrcoc.plugins.manifest import STAMPS
from lightning_arrcoc.relevance.blueprint import Blueprint
from lightning_arrcoc.vlm.loading import TINY
from lightning_arrcoc.weights import IDENTITY, belongings, trained_weights

PACKAGE = Path(lightning_arrcoc.__file__).parent
SHIPPED = (".py", ".html", ".css", ".js", ".json", ".jinja", ".safetensors")
OF_A_BACKBONE = (".json", ".jinja", ".safetensors", ".txt")
NAMES_ITSELF = "_name_or_path"  # in a backbone's config.json: where it lay
NEEDED = (  # what the page imports, as it is installed here
    "fsspec", "huggingface_hub", "jinja2", "kornia", "lazy-loader", "lightning", "matplotlib",
    "numpy", "nvidia-ml-py", "packaging", "pillow", "psutil", "pydantic", "rapidfuzz", "rich",
    "safetensors", "torch", "torchmetrics", "transformers",
)  # fmt: skip
CHECKPOINTS, BACKBONE, EXAMPLES, SETTINGS = "checkpoints", "backbone", "examples", "space.json"
NAME = "ARR-COC"  # of the checkpoint there; its own may tell of a folder here
PYTHON = tuple(map(str, sys.version_info[:2]))
APP = '''"""Asks one checkpoint of ARR-COC about pictures."""

from pathlib import Path

from lightning_arrcoc.compare.page.hosted import main

if __name__ == "__main__":
    main(Path(__file__).parent)
'''
MODEL_KEYS = ("select", "budget", "dtype", "min_pixels", "max_pixels")


def new_folder(target: str) -> Path:
    """Where the space is to be.

    Raises:
        ValueError: something is there already.
    """
    folder = Path(target)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"export={target!r} is there already; name a folder that is new or empty.")
    return folder


def write_space(
    target: Path, comparator: CheckpointComparator, settings: PageSettings,
    model: Mapping[str, Any], examples: Sequence[Example], percent: int,
) -> None:  # fmt: skip
    """Write the folder, whole or not at all. Nothing in it tells where anything lay here.

    Args:
        target: of `new_folder`.
        comparator: knows the checkpoint.
        settings: of the page, single.
        model: the configuration of the model.
        examples: pictures to begin with.
        percent: budget to begin with.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
        folder = Path(temporary) / "space"
        folder.mkdir()
        backbone = _write_backbone(folder, str(model["backbone"]))
        with_lora = _write_checkpoint(
            folder / CHECKPOINTS, comparator, str(settings.checkpoint), backbone
        )
        told = {
            "backbone": backbone,
            "model": {key: model.get(key) for key in MODEL_KEYS},
            "percent": percent,
            "max_upload_mb": settings.max_upload_mb,
            "max_waiting": settings.max_waiting,
            "timeout_s": comparator.timeout_s,
            "max_new_tokens": comparator.max_new_tokens,
        }
        (folder / SETTINGS).write_text(json.dumps(told, indent=1))
        _write_examples(folder / EXAMPLES, examples)
        _copy(PACKAGE, folder / PACKAGE.name, SHIPPED)
        versions = {"gradio": metadata.version("gradio"), "python": ".".join(PYTHON)}
        (folder / "requirements.txt").write_text(requirements((*NEEDED, *("peft",) * with_lora)))
        (folder / "README.md").write_text(render("space_readme", **versions))
        (folder / "app.py").write_text(APP)
        if target.exists():
            target.rmdir()  # empty, or it would have been refused
        folder.rename(target)


def requirements(names: Sequence[str]) -> str:
    """Lines for pip: the versions that are installed here."""
    versions = {name: metadata.version(name).partition("+")[0] for name in sorted(names)}
    return "".join(f"{name}=={version}\n" for name, version in versions.items())


def _write_backbone(folder: Path, backbone: str) -> str:
    """What the space loads: the embedded one, a hub id, or a copy of a folder."""
    if backbone == TINY or not Path(backbone).is_dir():
        return backbone
    copy = folder / BACKBONE
    _copy(Path(backbone), copy, OF_A_BACKBONE)
    for path in copy.rglob("*.json"):
        content = json.loads(path.read_text("utf-8"))
        if isinstance(content, dict) and content.pop(NAMES_ITSELF, None) is not None:
            path.write_text(json.dumps(content, indent=2))
    return BACKBONE


def _write_checkpoint(
    folder: Path, comparator: CheckpointComparator, name: str, backbone: str
) -> bool:
    """The small weights and what tells their network; whether there are adapters among them."""
    description = comparator.describe(name)
    with comparator.use(name) as model:
        small = trained_weights(model, "arr_coc")
        content = {
            "state_dict": {key: value.detach().cpu().clone() for key, value in small.items()},
            "global_step": description.manifest.step,
            STAMPS: {"architecture": {"own": _own(description.blueprint)}},
            **belongings(model, "arr_coc"),
        }
    content[IDENTITY]["name"] = backbone
    folder.mkdir()
    write_checkpoint(content, folder / f"{NAME}.ckpt")
    return description.lora is not None


def _own(blueprint: Blueprint | None) -> dict[str, Any]:
    """What `blueprint_of` reads."""
    assert blueprint is not None  # those of a folder all have one
    return {
        "texture": {"channels": list(blueprint.channels)},
        MAY_DIFFER: {
            "query_blind": blueprint.query_blind,
            "coarse": blueprint.coarse,
            "temperature": blueprint.temperature,
        },
    }


def _write_examples(folder: Path, examples: Sequence[Example]) -> None:
    folder.mkdir()
    for number, example in enumerate(examples):
        content = base64.b64decode(example.url.partition(",")[2])
        (folder / f"{number}.png").write_bytes(content)
        (folder / f"{number}.txt").write_text(example.question, "utf-8")


def _copy(source: Path, target: Path, suffixes: Sequence[str]) -> None:
    """Files of these kinds; neither links nor what is hidden."""
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        hidden = any(part.startswith((".", "__pycache__")) for part in inside.parts)
        if path.suffix in suffixes and path.is_file() and not path.is_symlink() and not hidden:
            (target / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / inside)
