"""How to make every public callback, plugin and logger, and what its constructor refuses.

A new one joins by a line of its own here. Its key begins with the name of its class; what follows a
colon tells settings apart that are worth a run of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning_arrcoc.callbacks import (
    AtomicCheckpoint,
    CurriculumAdvance,
    GradientMonitor,
    MemoryGuard,
    MemoryMonitor,
    MemorySnapshot,
    MetricsProgressBar,
    OOMGuard,
    OverfittingDetector,
    ThroughputMonitor,
)
from lightning_arrcoc.loggers import JsonlLogger
from lightning_arrcoc.plugins import AtomicCheckpointIO, SelectivePrecision

INTERRUPTED = ("interrupted in a step", "interrupted in validation")
BY_HAND = "optimizes by hand"  # what a refusal of manual optimization says


class Piece(NamedTuple):
    """One drop-in.

    Attributes:
        make: it, for a run in this folder.
        nonsense: by parameter, what the constructor refuses.
        free: parameters that take anything: names, paths, yes or no by truth; Lightning's own.
        trainer: what it needs of a Trainer.
        files: globs of what it may leave in the folder.
        refuses: scenario -> words of a refusal that is promised.
        ends_later: scenarios that go on to the end of a step first, as is promised.
    """

    make: Callable[[Path], Any]
    nonsense: Mapping[str, Sequence[Any]] = {}
    free: Sequence[str] = ()
    trainer: Mapping[str, Any] = {}
    files: Sequence[str] = ()
    refuses: Mapping[str, str] = {}
    ends_later: Sequence[str] = ()

    def settings(self, folder: Path) -> dict[str, Any]:
        """Of a Trainer that has it."""
        return {**self.trainer, **placed([self.make(folder)])}


def placed(made: Sequence[Any]) -> dict[str, Any]:
    """Arguments of a Trainer that put each where it belongs."""
    loggers = [one for one in made if isinstance(one, JsonlLogger)]
    plugins = [one for one in made if isinstance(one, AtomicCheckpointIO | SelectivePrecision)]
    callbacks = [one for one in made if one not in loggers and one not in plugins]
    return {
        "callbacks": callbacks, "plugins": plugins or None, "logger": loggers or False,
        "enable_checkpointing": any(isinstance(one, AtomicCheckpoint) for one in made),
        "enable_progress_bar": any(isinstance(one, MetricsProgressBar) for one in made),
    }  # fmt: skip


COUNT = (0, -1, 1.5, True, "3")
COUNT_OR_ZERO = COUNT[1:]
WORD = ("sometimes", "", 3, True)
GRADIENTS = {
    "policy": (*WORD, None), "spike_policy": WORD, "patience": COUNT, "window": (*COUNT, 1),
    "sigma": (0, -1.0, math.nan, "6", True), "warmup": COUNT_OR_ZERO,
    "groups": (-1, 1.5, True, "head", [1]), "update_ratio_every_n_steps": COUNT_OR_ZERO,
    "watch": WORD,
}  # fmt: skip
SAVING = {
    "filename": ("../up", "/tmp/x", " "), "save_last": ("sometimes", "", 3),
    "save_top_k": (-2, 1.5, True, "3"), "mode": ("sometimes", "", 3),
    "every_n_train_steps": (-1, "3"), "every_n_epochs": (-1, "3"), "train_time_interval": (5, "1h"),
    "periodic_every_n_steps": COUNT, "keep_periodic": (-2, 1.5, True, "3"),
    "on_save_error": (*WORD, None), "max_save_errors": COUNT_OR_ZERO, "resume": (*WORD, None),
    "partial": WORD, "signals": (["SIGKILL"], ["TERM"], [3]),
}  # fmt: skip
OUT_OF_MEMORY = {
    "policy": (*WORD, None), "reduction": (*WORD, None), "raise_after": COUNT,
    "reports": COUNT_OR_ZERO, "history_entries": COUNT_OR_ZERO,
}  # fmt: skip

PIECES: dict[str, Piece] = {
    "AtomicCheckpoint": Piece(
        lambda folder: AtomicCheckpoint(folder / "checkpoints"),
        SAVING,
        (
            "dirpath", "monitor", "verbose", "save_on_exception", "save_weights_only",
            "auto_insert_metric_name", "save_on_train_epoch_end", "enable_version_counter",
            "async_save",
        ),
        files=("checkpoints/*.ckpt",),
        ends_later=INTERRUPTED,
    ),
    "AtomicCheckpoint: in the background": Piece(
        lambda folder: AtomicCheckpoint(
            folder / "checkpoints", periodic_every_n_steps=1, async_save=True
        ),
        files=("checkpoints/*.ckpt",),
        ends_later=INTERRUPTED,
    ),
    "AtomicCheckpointIO": Piece(lambda folder: AtomicCheckpointIO(), free=("async_save",)),
    "AtomicCheckpointIO: in the background": Piece(lambda folder: AtomicCheckpointIO(True)),
    "CurriculumAdvance": Piece(
        lambda folder: CurriculumAdvance(threshold=2.0),  # of an accuracy: never
        {"threshold": (math.nan, "0.9", True, [0.5, "x"])},
        ("monitor",),
        {"reload_dataloaders_every_n_epochs": 1},
    ),
    "GradientMonitor": Piece(lambda folder: GradientMonitor(), GRADIENTS, ("find_module",)),
    "GradientMonitor: skip": Piece(
        lambda folder: GradientMonitor("skip", update_ratio_every_n_steps=1)
    ),
    "JsonlLogger": Piece(
        lambda folder: JsonlLogger(folder / "logs"),
        {"name": (None, 3), "version": (-1, 1.5, True)},
        ("save_dir",),
        files=("logs/lightning_logs/version_*/log.jsonl",),
    ),
    "MemoryGuard": Piece(
        lambda folder: MemoryGuard(),
        {
            "warning": (0, -1.0, math.nan, "0.8", True, 2.0), "critical": (0, "0.9", True, 2.0),
            "cleanup_gib": (-1, math.nan, "1", True), "cleanup_every_n_steps": (*COUNT, None),
            "leak_window": (*COUNT, 19), "gc_every_n_steps": COUNT,
        },
    ),
    "MemoryMonitor": Piece(lambda folder: MemoryMonitor(), free=("detail", "summary")),
    "MemorySnapshot": Piece(
        lambda folder: MemorySnapshot(dirpath=folder / "memory"),
        {"start": (-1, 5, 1.5, "2", True), "stop": (2, 0, 7.5, "5", True), "entries": COUNT},
        ("dirpath",),
    ),
    "MetricsProgressBar": Piece(
        lambda folder: MetricsProgressBar(),
        free=("refresh_rate", "leave", "theme", "console_kwargs"),  # Lightning's own
    ),
    "OOMGuard": Piece(lambda folder: OOMGuard(), OUT_OF_MEMORY),
    "OOMGuard: skip": Piece(
        lambda folder: OOMGuard("skip"),
        refuses={
            "manual": BY_HAND, "several optimizers": BY_HAND, "two processes": "serves one process",
        },
    ),
    "OOMGuard: split": Piece(
        lambda folder: OOMGuard("split"), refuses={"manual": BY_HAND, "several optimizers": BY_HAND}
    ),
    "OverfittingDetector": Piece(
        lambda folder: OverfittingDetector(),
        {
            "mode": (*WORD, None), "policy": (*WORD, None), "when": (0, 5, 1.5, True, "most"),
            "worse": COUNT, "ratio": (1, 0.5, math.nan, "2", True),
            "gap": (0, -0.1, math.nan, "1", True), "patience": COUNT, "gap_window": (*COUNT, 3),
            "min_delta": (-1, math.nan, "0", True),
        },
        ("monitor", "val_loss", "train_loss"),
    ),
    "SelectivePrecision": Piece(
        lambda folder: SelectivePrecision(keep_fp32=["Linear"]),  # all that computes
        {
            "precision": ("16", "32-true", None), "keep_fp32": ("net", [1], None),
            "scaler": (object(),),
        },
    ),
    "ThroughputMonitor": Piece(
        lambda folder: ThroughputMonitor(every_n_steps=1, warmup_steps=0),
        {
            "every_n_steps": COUNT, "samples": (3, "x"), "tokens": (3, "x"),
            "peak_flops": (0, -1.0, math.nan, "1e15", True), "warmup_steps": COUNT_OR_ZERO,
            "smoothing_steps": COUNT, "straggler_share": (0, -0.1, math.nan, "0.1", True, None),
            "straggler_windows": COUNT,
        },
        ("perplexity",),
    ),
}  # fmt: skip
