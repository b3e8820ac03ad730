"""The selector in onnxruntime, at sizes that it was not traced with."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from lightning_arrcoc.export.extras import require
from lightning_arrcoc.export.selector import SIZES, SelectorProgram
from lightning_arrcoc.vlm.exported_files import WRITTEN

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package)

FORM = import_module("lightning_arrcoc.export.onnx")


@pytest.fixture(scope="module")
def folder(program: SelectorProgram, tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("onnx")
    FORM.export_onnx(program, where)
    return where


def test_it_equals_torch_at_odd_single_and_large_sizes(
    folder: Path, program: SelectorProgram
) -> None:
    checked = FORM.check_onnx(program, folder, [SIZES[n] for n in (0, 1, 2, 4, 6, 10, 13, 18, 19)])
    assert checked.sound, checked.errors
    assert checked.alike == checked.sizes


def test_height_width_and_length_are_named_and_free(folder: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / FORM.FILE)
    shapes = {found.name: found.shape for found in session.get_inputs()}
    assert shapes == {
        "textures": ["images", 13, "rows", "columns"],
        "query": ["images", "tokens", 96],
        "mask": ["images", "tokens"],
    }
    assert [found.name for found in session.get_outputs()] == list(program_outputs())


def program_outputs() -> tuple[str, ...]:
    return "relevance_logit", "tensions", "looks"


def test_other_weights_are_found_out(folder: Path, program: SelectorProgram) -> None:
    """A negative control: the file no longer belongs to the network."""
    weight = next(value for value in program.network.knowing.parameters() if value.ndim > 1)
    before = weight.clone()
    try:
        weight.add_(0.5)
        assert not FORM.check_onnx(program, folder, SIZES[18:19]).sound
    finally:
        weight.copy_(before)


def test_every_file_may_be_replaced(folder: Path) -> None:
    assert {path.name for path in folder.rglob("*")} <= set(WRITTEN)


def test_what_spends_the_budget_lies_beside_it(folder: Path) -> None:
    assert (folder / "allocate.py").read_text().startswith('"""Relevance -> visual tokens')


def test_a_missing_extra_is_named_with_the_line_that_brings_it() -> None:
    with pytest.raises(
        ImportError, match=r'no_such_thing.*pip install "lightning-arrcoc\[export\]"'
    ):
        require("export", "torch", "no_such_thing")
