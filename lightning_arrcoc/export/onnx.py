"""format=onnx: the selector for ONNX runtimes."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_arrcoc.export import allocate
from lightning_arrcoc.export.extras import quiet, require
from lightning_arrcoc.export.selector import INPUTS, SIZES, Checked, SelectorProgram, check

FILE = "selector.onnx"


def export_onnx(program: SelectorProgram, folder: Path) -> None:
    """Write the selector, and beside it what spends a budget on its answers.

    Raises:
        ImportError: an extra is missing.
    """
    require("export", "onnx", "onnxscript", "onnxruntime")
    with quiet("torch.onnx"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # of torch, about itself
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="# The axis name", category=UserWarning)
        exported = torch.onnx.export(
            program,
            program.example,
            dynamo=True,
            dynamic_shapes=program.axes,
            input_names=list(INPUTS),
            output_names=list(program.outputs),
            verbose=False,
        )
    assert exported is not None
    exported.save(str(folder / FILE), external_data=False)
    shutil.copyfile(allocate.__file__, folder / "allocate.py")


def check_onnx(program: SelectorProgram, folder: Path, sizes: Any = SIZES) -> Checked:
    """Run the file in onnxruntime beside torch."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])

    def run(inputs: tuple[Tensor, ...]) -> Any:
        fed = {name: value.numpy() for name, value in zip(INPUTS, inputs, strict=True)}
        return session.run(list(program.outputs), fed)

    return check(run, program, sizes)
