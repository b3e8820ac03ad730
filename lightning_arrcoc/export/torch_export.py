"""format=torch_export: the selector as a program that torch runs without our package."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import torch

from lightning_arrcoc.export import allocate
from lightning_arrcoc.export.selector import SIZES, Checked, SelectorProgram, check

FILE, LEGACY = "selector.pt2", "selector_legacy.torchscript.pt"


def export_torch(program: SelectorProgram, folder: Path) -> None:
    """Write the selector as a `torch.export` program."""
    torch.export.save(traced(program), folder / FILE)
    shutil.copyfile(allocate.__file__, folder / "allocate.py")


def traced(program: torch.nn.Module, like: SelectorProgram | None = None) -> Any:
    """A `torch.export` program with images, rows, columns and tokens of any number.

    Args:
        program: the selector, or what was made of it.
        like: the selector itself, where `program` is not.
    """
    shape = like or program
    assert isinstance(shape, SelectorProgram)
    any_length = tuple(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for axes in shape.axes)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # of torch, about itself
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        exported = torch.export.export(program, shape.example, dynamic_shapes=any_length)
    exported.example_inputs = None  # they would be saved along, as a pickle
    return exported


def export_legacy(program: SelectorProgram, folder: Path) -> str | None:
    """Write the selector as TorchScript, which torch keeps for old C++ programs.

    Returns:
        None, or why this torch does not offer it.
    """
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore")  # deprecated, and asks at every size whether it is meant
        try:
            script = torch.jit.trace(program, program.example, check_trace=False)  # type: ignore[no-untyped-call]
            torch.jit.save(script, folder / LEGACY)
        except (AttributeError, RuntimeError, NotImplementedError) as error:
            return str(error).strip().splitlines()[0]
    return None


def check_torch(program: SelectorProgram, folder: Path, sizes: Any = SIZES) -> Checked:
    """Run the reloaded program beside the network."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        reloaded = torch.export.load(folder / FILE).module()
    return check(lambda inputs: reloaded(*inputs), program, sizes)


def check_legacy(program: SelectorProgram, folder: Path, sizes: Any = SIZES) -> Checked:
    """Run the reloaded TorchScript beside the network."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        reloaded = torch.jit.load(folder / LEGACY)  # type: ignore[no-untyped-call]
    return check(lambda inputs: reloaded(*inputs), program, sizes)
