"""format=int8: the selector, and the language model's weights, in fewer bits, measured."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from lightning_arrcoc.data.collate import Batch
from lightning_arrcoc.export import allocate
from lightning_arrcoc.export.extras import require
from lightning_arrcoc.export.measuring import (
    Measured,
    accuracy,
    encoded,
    in_turn_ms,
    inputs_of,
)
from lightning_arrcoc.export.quantized_selector import ProgramSelector, quantized
from lightning_arrcoc.export.selector import SelectorProgram
from lightning_arrcoc.export.torch_export import traced
from lightning_arrcoc.targets import build
from lightning_arrcoc.vlm import ArrCocQwen3VL
from lightning_arrcoc.vlm.quantizing import Bits, bytes_of, quantize_language_model
from lightning_arrcoc.vlm.saved_folder import write_folder

REPORT = "int8.json"
CALIBRATED = 16  # samples that static quantization takes its ranges from; Chosen by us
GRID, TOKENS = 32, 12  # what the selector is timed on: 1024 x 1024 px and a short question
BATCH = 10
LONGEST = 8  # answer, in tokens, as fit measures where the configuration says nothing


def export_int8(model: ArrCocQwen3VL, folder: Path, config: DictConfig) -> list[str]:
    """Fill a folder, and say what each variant keeps and costs.

    Raises:
        ImportError: torchao is not installed.
        ValueError: the data has no validation split, or there are no such bits.
    """
    require("quantize", "torchao")
    if config.bits not in ("int8", "int4"):
        raise ValueError(f"bits={config.bits}; choose int8 or int4.")
    data = build(config.data)
    if data.val is None:
        raise ValueError("There is nothing to measure on: data.val has no source.")
    batches = encoded(model, data.val, config.samples, BATCH)
    calibration = encoded(model, data.train or data.val, CALIBRATED, 1)
    answer = partial(
        _answered, batches=batches, longest=config.training.get("max_new_tokens", LONGEST)
    )
    write_folder(model, folder, language_model=config.bits)
    shutil.copyfile(allocate.__file__, folder / "allocate.py")
    selectors = _selectors(model, folder, calibration, answer, compiled=config.compile)
    languages = _languages(model, config.bits, batches[0], answer)
    report = {
        "samples": sum(len(batch["answers"]) for batch in batches),
        "budget": model.budget,
        "threads": torch.get_num_threads(),
        "compiled": config.compile,
        "measured": [row._asdict() for row in (*selectors, *languages)],
    }
    (folder / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    how = " (its time: compiled)" if config.compile else ""
    return [
        f"Exact match on {report['samples']} validation samples at budget {model.budget}:",
        f"selector{how}, one image of {GRID} x {GRID} cells",
        *_table(selectors),
        f"language model, {BATCH} answers",
        *_table(languages),
        f"The folder's language model is quantized to {config.bits} when it is loaded.",
    ]


def _answered(model: ArrCocQwen3VL, selector: Any, *, batches: Any, longest: int) -> float:
    return accuracy(model, batches, longest, selector)


def _selectors(
    model: ArrCocQwen3VL, folder: Path, calibration: Sequence[Batch], answer: Any, *, compiled: bool
) -> list[Measured]:
    """The selector in fp32, and in int8 both ways, which are written as programs."""
    program = SelectorProgram(model.arr_coc).eval().requires_grad_(False)
    with inputs_of(model.arr_coc) as seen, torch.no_grad():
        for batch in calibration:
            model.generate(**batch["prompts"], max_new_tokens=1)
    programs = {"fp32": traced(program)}
    for name, dynamic in (("int8 dynamic", True), ("int8 static", False)):
        programs[name] = quantized(program, seen, dynamic=dynamic)
    sizes, runs = [], []
    for name, exported in programs.items():
        path = folder / f"selector_{name.replace(' ', '_')}.pt2"
        torch.export.save(exported, path)
        sizes.append(sum(value.nbytes for value in exported.state_dict.values()))
        runs.append(exported.module())
    inputs = program.inputs((1, GRID, GRID, TOKENS))
    timed = [torch.compile(run) if compiled else run for run in runs]
    times = in_turn_ms([partial(run, *inputs) for run in timed])
    rights = [answer(model, ProgramSelector(model.arr_coc, run)) for run in runs]
    return [Measured(*row) for row in zip(programs, rights, times, sizes, strict=True)]


def _languages(model: ArrCocQwen3VL, bits: Bits, batch: Batch, answer: Any) -> list[Measured]:
    """The backbone's language model as it is, and with weights in fewer bits."""
    other = copy.deepcopy(model)
    quantize_language_model(other.backbone, bits)
    variants = {"as it is": model, f"{bits} weights": other}
    calls = [
        partial(one.generate, **batch["prompts"], max_new_tokens=4, min_new_tokens=4)
        for one in variants.values()
    ]
    times = in_turn_ms(calls)
    return [
        Measured(name, answer(one, None), ms, bytes_of(one.backbone.model.language_model))
        for (name, one), ms in zip(variants.items(), times, strict=True)
    ]


def _table(rows: Sequence[Measured]) -> list[str]:
    before, *after = rows
    lines = [f"  {'':<14}{'exact match':>12}{'ms':>10}{'KiB':>10}"]
    lines += [
        f"  {row.name:<14}{100 * row.accuracy:>10.1f} %{row.ms:>10.2f}{row.size / 1024:>10.0f}"
        for row in rows
    ]
    return [*lines, *(f"  {row.judged(before)}" for row in after)]
