"""The command `export`: a checkpoint -> a folder in one of several forms."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lightning_arrcoc.atomic import replacing_folder
from lightning_arrcoc.export import FORMATS
from lightning_arrcoc.export.selector import Checked, SelectorProgram, described
from lightning_arrcoc.named_checkpoint import trained_source
from lightning_arrcoc.trained import load_trained, options_of
from lightning_arrcoc.vlm import ArrCocQwen3VL
from lightning_arrcoc.vlm.exported_files import CONFIG, is_ours

FOLDER = "outputs/export"
MERGE = "merge_lora"  # of format=hf alone


def check_format(config: DictConfig) -> None:
    """Whether the form is known, and its options are its own.

    Raises:
        ValueError: it is not.
    """
    if config.format not in FORMATS:
        names = "; ".join(f"{name}: {what}" for name, what in FORMATS.items())
        raise ValueError(f"format={config.format}; choose one. {names}.")
    if config.merge_lora and config.format != "hf":
        raise ValueError(f"{MERGE}=true is for format=hf; adapters do not touch the selector.")


def export(config: DictConfig) -> int:
    """Write the folder, and check what is in it.

    Returns:
        0, or 1 where the exported form does not answer as torch does: then nothing is written.
    """
    check_format(config)
    checkpoint = trained_source(config.ckpt)
    out = Path(config.out or f"{FOLDER}/{config.format}")
    options = options_of(config, list(HydraConfig.get().overrides.task), checkpoint)
    torch.manual_seed(config.seed)  # of weights that are drawn (model.random_weights=true)
    try:
        with replacing_folder(out, replace=config.overwrite and is_ours(out)) as new:
            model = load_trained(checkpoint, **options)
            for line in _written(config, model, new, Path(checkpoint)):
                print(line)
    except NotEqualError as error:
        print(f"{error} Nothing was written.")
        return 1
    print(f"folder: {out}")
    return 0


class NotEqualError(Exception):
    """What was exported answers otherwise than torch does."""


def _written(config: DictConfig, model: ArrCocQwen3VL, new: Path, checkpoint: Path) -> list[str]:
    """Fill a folder in the form that was asked for, and tell about it."""
    if config.format == "hf":
        from lightning_arrcoc.export.hf import export_hf

        return export_hf(model, new, checkpoint=checkpoint, merge_lora=config.merge_lora)
    if config.format == "int8":
        from lightning_arrcoc.export.int8 import export_int8

        return export_int8(model, new, config)
    program = SelectorProgram(model.arr_coc).eval().requires_grad_(False)
    settings = {"format": config.format, **described(model, program)}
    (new / CONFIG).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    return (_onnx if config.format == "onnx" else _torch_export)(program, new)


def _onnx(program: SelectorProgram, new: Path) -> list[str]:
    from lightning_arrcoc.export.onnx import FILE, check_onnx, export_onnx

    export_onnx(program, new)
    return _sound(FILE, check_onnx, program, new)


def _torch_export(program: SelectorProgram, new: Path) -> list[str]:
    from lightning_arrcoc.export import torch_export as form

    form.export_torch(program, new)
    lines = _sound(form.FILE, form.check_torch, program, new)
    missing = form.export_legacy(program, new)
    if missing is not None:
        return [*lines, f"TorchScript is left out: this torch does not offer it ({missing})."]
    return [*lines, *_sound(f"{form.LEGACY} (legacy)", form.check_legacy, program, new)]


def _sound(
    what: str, check: Callable[[SelectorProgram, Path], Checked], program: Any, new: Path
) -> list[str]:
    """What a check found.

    Raises:
        NotEqualError: a difference is beyond the tolerance.
    """
    checked = check(program, new)
    lines = checked.lines(what)
    if not checked.sound:
        raise NotEqualError(" ".join(lines))
    return lines
