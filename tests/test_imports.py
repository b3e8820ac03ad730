"""Who may import whom, and what an import costs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_arrcoc

PACKAGE = Path(lightning_arrcoc.__file__).parent
ALONE = ("callbacks", "plugins", "loggers", "profilers")
# Events, plain file handling, comparing architectures, where a run comes from, and memory.
SHARED = tuple(
    f"lightning_arrcoc.{name}"
    for name in ("events", "atomic", "architecture", "provenance", "memory")
)


def imports(file: Path) -> set[str]:
    """Modules of ours, and foreign roots, that a file imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files(folder: str) -> list[Path]:
    return sorted((PACKAGE / folder).rglob("*.py"))


@pytest.mark.parametrize("folder", ALONE)
def test_drop_ins_import_nothing_of_ours_but_events_files_and_provenance(folder: str) -> None:
    for file in files(folder):
        ours = {
            name
            for name in imports(file)
            if name.startswith("lightning_arrcoc.")
            and not name.startswith((f"lightning_arrcoc.{folder}", *SHARED))
            and not (folder == "callbacks" and name.startswith("lightning_arrcoc.plugins"))
        }
        assert ours == set(), file


def test_memory_is_plain_torch_and_uses_nothing_of_ours_but_files() -> None:
    for file in files("memory"):
        for name in imports(file):
            assert name.split(".")[0] != "lightning", file
            assert not name.startswith("lightning_arrcoc.") or name.startswith(
                ("lightning_arrcoc.memory", "lightning_arrcoc.atomic")
            ), file


def test_relevance_knows_neither_lightning_nor_transformers_nor_the_rest() -> None:
    for file in files("relevance"):
        for name in imports(file):
            assert name.split(".")[0] not in ("lightning", "transformers"), file
            assert not name.startswith("lightning_arrcoc.") or name.startswith(
                "lightning_arrcoc.relevance"
            ), file


def test_only_vlm_imports_transformers() -> None:
    users = {
        file.relative_to(PACKAGE).parts[0]
        for file in PACKAGE.rglob("*.py")
        if any(name.split(".")[0] == "transformers" for name in imports(file))
    }
    assert users == {"vlm"}


def test_one_file_imports_peft_and_only_when_it_is_wanted() -> None:
    users = [file for file in PACKAGE.rglob("*.py") if any(n.split(".")[0] == "peft"
             for n in imports(file))]  # fmt: skip
    assert users == [PACKAGE / "vlm" / "lora.py"]
    code = "import sys, lightning_arrcoc.module; print('peft' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_vlm_imports_relevance_itself_and_plain_files_alone() -> None:
    for file in files("vlm"):
        if file.name == "make.py":  # lays down the backbone for the digits
            continue
        for name in imports(file):
            assert not name.startswith("lightning_arrcoc.") or name.startswith(
                ("lightning_arrcoc.relevance", "lightning_arrcoc.vlm", "lightning_arrcoc.atomic")
            ), f"{file}: {name}"


# Forked from one process that has imported Lightning, each imports a module of ours.
EACH_BY_ITSELF = """
import json, os, sys
import lightning.pytorch
before, heavy = set(sys.modules), set(json.loads(sys.argv[1]))
for module in sys.argv[2:]:
    if not (child := os.fork()):
        __import__(module)
        print(module, *sorted(heavy & (set(sys.modules) - before)), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_a_callback_loads_no_more_of_the_heavy_ones_than_lightning_does() -> None:
    heavy = ["transformers", "kornia", "matplotlib", "wandb", "sklearn", "hydra"]
    drop_ins = ["lightning_arrcoc"] + [
        ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
        for folder in ALONE
        for file in files(folder)
        if file.name != "__init__.py"
    ]
    assert len(drop_ins) > 20
    done = subprocess.run(
        [sys.executable, "-c", EACH_BY_ITSELF, json.dumps(heavy), *drop_ins],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split("\n") == [*drop_ins, ""]


def test_listing_checkpoints_loads_neither_torch_nor_lightning() -> None:
    code = (
        "import sys, lightning_arrcoc.checkpoints; "
        "print(sorted({'torch', 'lightning', 'hydra'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    for name in lightning_arrcoc.__all__:
        assert getattr(lightning_arrcoc, name).__module__.startswith("lightning_arrcoc.")
    assert set(lightning_arrcoc.__all__) <= set(dir(lightning_arrcoc))


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="attribute Nonsense"):
        lightning_arrcoc.Nonsense  # noqa: B018
