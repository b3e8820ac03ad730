"""Metrics and events of a run in one file that survives it."""

from __future__ import annotations

import logging
import os
import platform
import sys
import warnings
import weakref
from argparse import Namespace
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from lightning_arrcoc.events import Event
from lightning_arrcoc.loggers.jsonl_file import LOG, JsonlFile
from lightning_arrcoc.loggers.redaction import Redactor
from lightning_arrcoc.provenance import describe_run

HEARD = (
    "lightning_arrcoc", "lightning", "lightning.pytorch", "lightning.fabric", "pytorch_lightning",
    "lightning_fabric",
)  # fmt: skip


class JsonlLogger(Logger):
    """Logs what a run measures and what happens to it, one JSON object a line.

    ==========  ================================================================================
    key         what
    ==========  ================================================================================
    time        UTC, ISO 8601 with microseconds
    level       ``INFO``, ``WARNING``, ...
    rank        the process
    step        optimizer steps so far
    epoch       the trainer's
    phase       ``train``, ``validate``, ``sanity_check``, ``test``, ``predict``; null outside
    event       ``metrics``, ``run/started``, ``run/config``, ``run/ended``, ``log``, ``warning``,
                or what our callbacks record, such as ``checkpoint/saved``
    metrics     of ``metrics``: plain numbers by name; ``"NaN"`` and ``"Infinity"`` as text
    message     of ``log`` and ``warning``
    ==========  ================================================================================

    An event's own fields stand beside these. ``run/started`` tells versions, git commit, hardware
    and parameters; ``run/ended`` how it ended. A run without one was killed, or goes on. Python's
    warnings are heard while a run lasts, as is what Lightning and this package say by `logging`.

    The Trainer of the package `pytorch_lightning` and Fabric may have it as well; with Fabric
    nobody tells of steps but what is logged.

    A line is handed to the system at once and in one piece. Rank zero writes ``log.jsonl`` with
    metrics and events; other ranks their events to ``log.rank1.jsonl`` and so on. A full disk costs
    lines and one warning, not the run. Secrets are hidden: what is named key, token, password or
    the like, what such environment variables hold, and what has the shape of a known kind.

    Args:
        save_dir, name, version: the folder is ``save_dir/name/version_0``, the first number that is
            free; a version that is given as text is a folder's name. An existing log is gone on
            with.

    Raises:
        ValueError: a name or version that no folder can have.
    """

    def __init__(
        self,
        save_dir: str | Path = ".",
        name: str = "lightning_logs",
        version: int | str | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(name, str):
            raise ValueError(f"name={name!r}; expected a folder's name.")
        is_number = isinstance(version, int) and not isinstance(version, bool) and version >= 0
        if not (version is None or is_number or isinstance(version, str)):
            raise ValueError(f"version={version!r}; expected 0 or more, a folder's name, or None.")
        self._save_dir, self._name, self._version = str(save_dir), name, version
        self._hide = Redactor()
        self._file: JsonlFile | None = None
        self._module: weakref.ref[torch.nn.Module] | None = None
        self._listening: _Listening | None = None
        self._complained = self._writing = False

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> int | str:
        if self._version is None:
            root = Path(self._save_dir) / self._name
            taken = [int(p.name[8:]) for p in root.glob("version_*") if p.name[8:].isdigit()]
            self._version = max(taken, default=-1) + 1
        return self._version

    @property
    def save_dir(self) -> str:
        return self._save_dir

    @property
    def log_dir(self) -> str:
        """Folder of the log."""
        version = self.version
        folder = version if isinstance(version, str) else f"version_{version}"
        return str(Path(self._save_dir) / self._name / folder)

    @property
    def path(self) -> Path:
        """This rank's log."""
        rank = _rank()
        return Path(self.log_dir) / (LOG if not rank else f"log.rank{rank}.jsonl")

    # ------------------------------------------------------------------------- called by Lightning

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        numbers = {name: _plain(value) for name, value in metrics.items()}
        epoch = numbers.pop("epoch", None)
        where: dict[str, Any] = {} if epoch is None else {"epoch": int(epoch)}
        if step is not None:
            where["step"] = step
        self._write("metrics", **where, metrics=numbers)

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        config = vars(params) if isinstance(params, Namespace) else dict(params)
        self._write("run/config", config=config)

    @rank_zero_only
    def log_graph(self, model: torch.nn.Module, input_array: Tensor | None = None) -> None:
        """Lightning says so at the start of every run: its header is written."""
        self._module = weakref.ref(model)
        if self._listening is None:
            self._listening = _Listening(self)
        counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
        parameters = {
            "all": sum(count for count, _ in counts),
            "trainable": sum(count for count, trains in counts if trains),
        }
        started = {**describe_run(), "hardware": hardware(), "parameters": parameters}
        self._write("run/started", **started)

    def on_event(self, event: Event) -> None:
        """What our callbacks record; see `lightning_arrcoc.events`."""
        bad = any(word in event.name for word in ("failed", "nonfinite", "oom", "critical"))
        self._write(
            event.name, level=logging.WARNING if bad else logging.INFO,
            step=event.step, epoch=event.epoch, fields=event.fields,
        )  # fmt: skip

    def finalize(self, status: str) -> None:
        error = sys.exc_info()[1]
        if _rank() == 0 or error is not None:
            why = f"{type(error).__name__}: {error}" if error is not None else None
            level = logging.ERROR if error is not None else logging.INFO
            self._write("run/ended", level=level, status=status, reason=why)
        if self._listening is not None:
            self._listening.stop()
            self._listening = None
        if self._file is not None:
            self._file.close()

    # ----------------------------------------------------------------------------------- writing

    def heard(self, event: str, level: int, message: str, **fields: Any) -> None:
        """Something was said in the process."""
        if not self._writing:  # by us, about a line that could not be written
            self._write(event, level=level, message=message, fields=fields)

    def _write(
        self, event: str, level: int = logging.INFO, fields: Mapping[str, Any] | None = None,
        **known: Any,
    ) -> None:  # fmt: skip
        line: dict[str, Any] = {
            "time": datetime.now(timezone.utc).isoformat(timespec="microseconds"),
            "level": logging.getLevelName(level),
            "rank": _rank(),
            **self._where(),
        }
        line |= {"event": event, **known}
        line |= {k: v for k, v in (fields or {}).items() if k not in line}
        self._writing = True
        try:
            if self._file is None or self._file.path != self.path:
                self._file = JsonlFile(self.path)
            self._file.append(self._hide(line))
        except OSError as error:
            if not self._complained:
                self._complained = True
                warnings.warn(
                    f"JsonlLogger cannot write {self.path}: {error.strerror or error}. The run "
                    "goes on; lines are lost until there is room again.",
                    stacklevel=2,
                )
        finally:
            self._writing = False

    def _where(self) -> dict[str, Any]:
        """Step, epoch and phase, as the trainer says; nulls where there is none."""
        module = self._module() if self._module else None
        trainer = getattr(module, "_trainer", None)  # the property raises where there is none
        if trainer is None:
            return {"step": None, "epoch": None, "phase": None}
        stage = trainer.state.stage
        return {
            "step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "phase": stage.value if stage is not None else None,
        }

    def __getstate__(self) -> dict[str, Any]:
        """A copy, in another process, opens the file for itself and listens to nothing."""
        state = {**self.__dict__, "_file": None, "_module": None, "_listening": None}
        return state | {"_version": self.version}


class _Listening:
    """Hands what `logging` and `warnings` say to a logger, until stopped."""

    def __init__(self, logger: JsonlLogger) -> None:
        self._show = warnings.showwarning
        self._handler = _Handler(logger)
        for name in HEARD:
            logging.getLogger(name).addHandler(self._handler)

        def show(
            message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any
        ) -> None:
            at = {"category": category.__name__, "at": f"{filename}:{lineno}"}
            logger.heard("warning", logging.WARNING, str(message), **at)
            self._show(message, category, filename, lineno, *rest)

        self._shows = show
        warnings.showwarning = show  # type: ignore[assignment]

    def stop(self) -> None:
        for name in HEARD:
            logging.getLogger(name).removeHandler(self._handler)
        if warnings.showwarning is self._shows:  # somebody else's is left alone
            warnings.showwarning = self._show


class _Handler(logging.Handler):
    """Each record once, though it may pass a package and its parent."""

    def __init__(self, logger: JsonlLogger) -> None:
        super().__init__(logging.INFO)
        self._logger = logger
        self._last: logging.LogRecord | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if record is not self._last:
            self._last = record
            self._logger.heard("log", record.levelno, record.getMessage(), logger=record.name)


def hardware() -> dict[str, Any]:
    """Of this machine: cores, memory in bytes, and the CUDA devices by name."""
    pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": pages and pages * os.sysconf("SC_PAGE_SIZE"),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _rank() -> int:
    return int(getattr(rank_zero_only, "rank", 0))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value
