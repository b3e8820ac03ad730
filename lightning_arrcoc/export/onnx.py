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
            custom_translation_table={torch.ops.aten.logsumexp.default: log_sum_exp},
            verbose=False,
        )
    assert exported is not None
    exported.save(str(folder / FILE), external_data=False)
    shutil.copyfile(allocate.__file__, folder / "allocate.py")


def log_sum_exp(values: Any, axes: Any, keepdim: bool = False) -> Any:
    """In ONNX operators, with the maximum taken out first.

    ONNX's own ReduceLogSumExp answers minus infinity in onnxruntime 1.31 where all values are below
    -88 or so, and infinity in other runtimes where one is above 88.
    """
    from onnxscript import opset18

    op: Any = opset18
    along = op.Constant(value_ints=list(axes))
    top = op.ReduceMax(values, along, keepdims=1)
    total = op.ReduceSum(op.Exp(op.Sub(values, top)), along, keepdims=int(keepdim))
    return op.Add(op.Log(total), top if keepdim else op.Squeeze(top, along))


def check_onnx(program: SelectorProgram, folder: Path, sizes: Any = SIZES) -> Checked:
    """Run the file in onnxruntime beside torch."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])

    def run(inputs: tuple[Tensor, ...]) -> Any:
        fed = {name: value.numpy() for name, value in zip(INPUTS, inputs, strict=True)}
        return session.run(list(program.outputs), fed)

    return check(run, program, sizes)
