"""The selector as a program of torch, with and without our package beside it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_arrcoc.export import torch_export as form
from lightning_arrcoc.export.selector import SIZES, SelectorProgram
from lightning_arrcoc.vlm.exported_files import WRITTEN

SOME = [SIZES[n] for n in (0, 1, 2, 6, 10, 18)]
WITHOUT_US = """
import sys, torch, numpy
sys.modules["lightning_arrcoc"] = None  # an import of it is an error
run = torch.export.load(sys.argv[1]).module()
inputs = [torch.from_numpy(part) for part in numpy.load(sys.argv[2]).values()]
numpy.savez(sys.argv[3], *[part.detach().numpy() for part in run(*inputs)])
assert not {"transformers", "kornia", "lightning"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def folder(program: SelectorProgram, tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("torch_export")
    form.export_torch(program, where)
    return where


def test_the_reloaded_program_is_bit_for_bit_the_network(
    folder: Path, program: SelectorProgram
) -> None:
    checked = form.check_torch(program, folder, SOME)
    assert set(checked.errors.values()) == {0.0}
    assert checked.alike == len(SOME)


def test_it_runs_where_our_package_cannot_be_imported(
    folder: Path, program: SelectorProgram, tmp_path: Path
) -> None:
    inputs = program.inputs((1, 9, 5, 4), seed=3)
    np.savez(tmp_path / "in.npz", *(part.numpy() for part in inputs))
    names = [str(folder / form.FILE), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    subprocess.run([sys.executable, "-I", "-c", WITHOUT_US, *names], check=True, cwd=tmp_path)
    found = np.load(tmp_path / "out.npz").values()
    for one, other in zip(found, program(*inputs), strict=True):
        assert np.array_equal(one, other.numpy())


def test_every_file_may_be_replaced(folder: Path) -> None:
    assert {path.name for path in folder.rglob("*")} | {form.LEGACY} <= set(WRITTEN)


def test_no_pickle_is_inside(folder: Path) -> None:
    with zipfile.ZipFile(folder / form.FILE) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        raw = b"".join(archive.read(name) for name in sizes if "/weights/" not in name)
    assert all(size == 0 for name, size in sizes.items() if "sample_inputs" in name)
    assert not any(name.endswith(".pkl") for name in sizes)
    assert b"torch._utils\n_rebuild" not in raw


@pytest.mark.skipif(not hasattr(torch.jit, "trace"), reason="this torch has no TorchScript")
def test_torchscript_equals_the_network_too(program: SelectorProgram, tmp_path: Path) -> None:
    assert form.export_legacy(program, tmp_path) is None
    assert "legacy" in form.LEGACY
    assert form.check_legacy(program, tmp_path, SOME).sound


def test_a_torch_without_torchscript_is_told(
    program: SelectorProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch.jit, "trace")
    assert "trace" in str(form.export_legacy(program, tmp_path))
