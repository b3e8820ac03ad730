"""One short run, and all that can be told of it afterwards."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import random
import signal
import sys
import threading
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.nn.modules import module as torch_module

from .scenarios import QUIET, Data, Scenario


class Outcome(NamedTuple):
    """What a run left.

    Attributes:
        weights: of the module.
        random: the next draw of each generator.
        changed: what is otherwise in the process, the module or the optimizers than before.
        files: in its folder, by path.
    """

    weights: dict[str, Any]
    random: dict[str, Any]
    changed: dict[str, Any]
    files: list[str]


def run(scenario: Scenario, folder: Path, **settings: Any) -> Outcome:
    """Run it in this process, from the same seed each time."""
    folder.mkdir(parents=True, exist_ok=True)
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    pl.seed_everything(0, verbose=False)
    module = scenario.module()
    before = process_state() | module_state(module)
    trainer = pl.Trainer(**{**QUIET, "default_root_dir": folder, **settings, **scenario.trainer})
    try:
        if scenario.raises is None:
            getattr(trainer, scenario.runs)(module, Data())
        else:
            with pytest.raises(scenario.raises):
                getattr(trainer, scenario.runs)(module, Data())
        drawn = {
            "python": random.random(),
            "numpy": np.random.rand(),
            "torch": float(torch.rand(())),
        }
        after = process_state() | module_state(module)
    finally:
        for number, handler in handlers.items():  # Lightning leaves SIGINT ignored
            if signal.getsignal(number) != handler:
                signal.signal(number, handler)
    changed = {name: (before[name], after[name]) for name in after if before[name] != after[name]}
    changed |= trainer_state(trainer)
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    weights = {name: value.detach().clone() for name, value in module.state_dict().items()}
    return Outcome(weights, drawn, changed, files)


def compare(found: Outcome, without: Outcome) -> None:
    """The same weights and draws, and nothing left that the other did not leave."""
    assert found.changed == expected_of(found, without)
    assert found.random == without.random
    assert found.weights.keys() == without.weights.keys()
    for name, value in found.weights.items():
        assert value.equal(without.weights[name]), name


def expected_of(found: Outcome, without: Outcome) -> dict[str, Any]:
    """What the other changed.

    But for what it alone changed in the process: something of an earlier test may have ended then.
    """
    elsewhere = process_state().keys() - found.changed.keys()
    return {name: change for name, change in without.changed.items() if name not in elsewhere}


def process_state() -> dict[str, Any]:
    """What a callback could leave in a process."""
    descriptors = Path("/proc/self/fd")
    loggers = {name: logging.getLogger(name) for name in ["", *logging.root.manager.loggerDict]}
    return {
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "children": len(multiprocessing.active_children()),
        "signals": {n: signal.getsignal(n) for n in signal.valid_signals()},
        "descriptors": Counter(
            str(one.readlink()) for one in descriptors.iterdir() if one.is_symlink()
        ) if descriptors.exists() else None,
        "environment": dict(os.environ),
        "filters": list(warnings.filters),
        "showwarning": warnings.showwarning,
        "excepthooks": (sys.excepthook, threading.excepthook, sys.unraisablehook),
        "tracing": (sys.gettrace(), sys.getprofile()),
        "collecting": (gc.isenabled(), gc.get_threshold(), list(gc.callbacks)),
        "dtype": torch.get_default_dtype(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "anomalies": torch.is_anomaly_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "torch functions": torch._C._len_torch_function_stack(),
        "torch threads": torch.get_num_threads(),
        "hooks of all modules": [
            list(hooks) for name, hooks in vars(torch_module).items() if name.startswith("_global_")
            and hasattr(hooks, "keys")
        ],
        "log handlers": {name: list(one.handlers) for name, one in loggers.items() if one.handlers},
        "log levels": {name: one.level for name, one in loggers.items() if one.level},
        "directory": Path.cwd(),
        "streams": (sys.stdout, sys.stderr),
    }  # fmt: skip


def module_state(module: torch.nn.Module) -> dict[str, Any]:
    """Hooks of modules and tensors, and attributes that were set; Lightning's own by its names."""
    hooks = {
        f"{name}.{kind}": len(held)
        for name, part in module.named_modules()
        for kind, held in vars(part).items()
        if kind.endswith("_hooks") or "_hooks_" in kind
    }
    attributes = {name: sorted(vars(part)) for name, part in module.named_modules() if name}
    tensors = {
        name: (tensor._backward_hooks, tensor._post_accumulate_grad_hooks, sorted(vars(tensor)))
        for name, tensor in module.named_parameters()
    }
    forwards = [name for name, part in module.named_modules() if "forward" in vars(part)]
    return {"hooks": hooks, "attributes": attributes, "tensors": tensors, "forwards": forwards,
            "modes": [part.training for part in module.modules()]}  # fmt: skip


def trainer_state(trainer: pl.Trainer) -> dict[str, Any]:
    """What was put over methods of Lightning's objects and of optimizers."""
    loop = trainer.fit_loop.epoch_loop
    ways = (loop.automatic_optimization, loop.manual_optimization)
    covered = [
        sorted(name for name in vars(one) if callable(getattr(type(one), name, None)))
        for one in (trainer, trainer.strategy, loop, *ways)
    ]
    optimizers = [
        (sorted(n for n in vars(one) if n != "_zero_grad_profile_name"),
         len(one._optimizer_step_pre_hooks), len(one._optimizer_step_post_hooks))
        for one in trainer.optimizers
    ]  # fmt: skip
    return {"covered": covered, "optimizers": optimizers}
