"""Signatures read from source agree with those of the imported objects, and cost no import."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path

import lightning.pytorch as pl
import pytest

from lightning_arrcoc import ArrCocQwen3VL
from lightning_arrcoc.serve.settings import ServerSettings
from lightning_arrcoc.signatures import annotated_type, read_signature

PACKAGE = """
from ._deep import Base as Renamed, make
from . import _deep

class Heir(Renamed):
    pass

class Own(Renamed):
    def __init__(self, colour: str, *, size: int = 3, **rest: object) -> None: ...

    @classmethod
    def load(cls, path: str) -> "Own": ...

    @staticmethod
    def plain(path: str, mode) -> None: ...

class Stranger(_deep.Base):
    pass

try:
    from ._deep import late
except ImportError:
    pass

CONSTANT = 3
"""
DEEP = """
class Base:
    def __init__(self, width: int, names: list[str] | None = None) -> None: ...

def make(height: float, depth=2) -> Base: ...

def late(hour: int) -> None: ...
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of a name that no other test has, since what was read is cached."""
    name = f"signed_{abs(hash(str(tmp_path)))}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(PACKAGE)
    (tmp_path / name / "_deep.py").write_text(DEEP)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def parameters(target: str) -> dict[str, str]:
    signature = read_signature(target)
    assert signature is not None, f"{target} was not found"
    return signature.parameters


def imported_parameters(function: Callable[..., object]) -> list[str]:
    """An independent reading: what Python itself says about the imported object."""
    return [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]


def test_the_trainers_parameters_equal_those_of_the_imported_class() -> None:
    assert list(parameters("lightning.pytorch.Trainer")) == imported_parameters(pl.Trainer)


def test_from_pretrained_is_found_through_the_lazy_package() -> None:
    found = read_signature("lightning_arrcoc.ArrCocQwen3VL.from_pretrained")
    assert found is not None
    assert list(found.parameters) == imported_parameters(ArrCocQwen3VL.from_pretrained)
    assert found.home == "lightning_arrcoc.vlm.pretrained"


@pytest.mark.parametrize("module", ["callbacks", "loggers", "plugins", "profilers", "strategies"])
def test_every_public_class_of_lightning_reads_as_python_sees_it(module: str) -> None:
    path = f"lightning.pytorch.{module}"
    loaded = importlib.import_module(path)
    classes = {
        name: getattr(loaded, name)
        for name in loaded.__all__
        if inspect.isclass(getattr(loaded, name))
    }
    read = {name: read_signature(f"{path}.{name}") for name in classes}
    told = {name: list(signature.parameters) for name, signature in read.items() if signature}
    assert told == {name: imported_parameters(classes[name]) for name in told}
    assert len(told) >= len(classes) / 2


def test_an_inherited_constructor_is_followed_through_a_renamed_import(package: str) -> None:
    assert parameters(f"{package}.Heir") == {"width": "int", "names": "list[str] | None"}


def test_a_constructor_of_its_own_counts_before_the_inherited_one(package: str) -> None:
    found = read_signature(f"{package}.Own")
    assert found is not None
    assert found.parameters == {"colour": "str", "size": "int"}
    assert found.takes_any
    assert found.home == package


def test_a_classmethod_loses_cls_and_a_staticmethod_nothing(package: str) -> None:
    assert list(parameters(f"{package}.Own.load")) == ["path"]
    assert list(parameters(f"{package}.Own.plain")) == ["path", "mode"]


def test_a_function_is_read_where_it_is_defined(package: str) -> None:
    found = read_signature(f"{package}.make")
    assert found is not None
    assert found.home == f"{package}._deep"
    assert found.parameters == {"height": "float", "depth": ""}
    assert not found.takes_any


def test_an_import_inside_try_is_followed(package: str) -> None:
    assert list(parameters(f"{package}.late")) == ["hour"]


@pytest.mark.parametrize(
    "target",
    [
        "no_such_package_at_all.Thing",
        "lightning.pytorch.Trainr",
        "lightning.pytorch",
        "lightning.pytorch.Trainer.fit.deeper",
        "lightning_arrcoc.ArrCocQwen3VL.from_nowhere",
        "os",
        "sys.exit",
        "",
        ".",
        "..callbacks",
        "lightning_arrcoc..cli",
    ],
)
def test_an_unknown_name_gives_none(target: str) -> None:
    assert read_signature(target) is None


def test_a_constant_and_a_base_that_cannot_be_followed_give_none(package: str) -> None:
    assert read_signature(f"{package}.CONSTANT") is None
    assert read_signature(f"{package}.Stranger") is None


def test_reading_signatures_imports_nothing_heavy() -> None:
    code = """
import sys
from lightning_arrcoc.signatures import read_signature
targets = (
    "lightning.pytorch.Trainer",
    "lightning.pytorch.callbacks.ModelCheckpoint",
    "lightning_arrcoc.ArrCocQwen3VL.from_pretrained",
    "lightning_arrcoc.relevance.Knowing",
)
assert all(read_signature(target) for target in targets)
print(*[name for name in ("torch", "lightning", "transformers", "numpy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ("int", int),
        ("str | None", str | None),
        ("Optional[int]", typing.Optional[int]),  # noqa: UP045
        ("Literal['a', 'b']", typing.Literal["a", "b"]),
        ("Sequence[float]", Sequence[float]),
        ("dict[str, int]", dict[str, int]),
        ("tuple[float, float]", tuple[float, float]),
        ("Any", typing.Any),
    ],
)
def test_simple_annotations_become_types(annotation: str, expected: object) -> None:
    assert annotated_type(annotation) == expected


@pytest.mark.parametrize(
    "annotation", ["", "Tensor", "torch.Tensor", "int |", "list[Tensor]", "int.nothing", "3 | 'a'"]
)
def test_annotations_beyond_builtins_and_typing_are_anything(annotation: str) -> None:
    assert annotated_type(annotation) is typing.Any


@pytest.mark.parametrize(
    "annotation",
    [
        "__import__('os')",
        "eval('1')",
        "vars()",
        "().__class__.__base__.__subclasses__()",
        "[x for x in (1,)].pop()",
    ],
)
def test_an_annotation_cannot_call_anything(annotation: str) -> None:
    assert annotated_type(annotation) is typing.Any


def test_an_annotation_cannot_open_a_file(tmp_path: Path) -> None:
    annotated_type(f"open({str(tmp_path / 'made')!r}, 'w').close()")
    assert list(tmp_path.iterdir()) == []


def test_the_fields_of_a_dataclass_are_its_parameters() -> None:
    known = read_signature("lightning_arrcoc.serve.settings.ServerSettings")
    assert known is not None
    assert list(known.parameters) == list(inspect.signature(ServerSettings).parameters)
    assert annotated_type(known.parameters["max_queue"]) is int
