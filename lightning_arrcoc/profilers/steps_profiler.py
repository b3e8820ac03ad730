"""Lightning's PyTorchProfiler over a few steps."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import torch
from lightning.pytorch.profilers import PyTorchProfiler
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only, rank_zero_warn

from lightning_arrcoc.atomic import write_atomically
from lightning_arrcoc.memory import history
from lightning_arrcoc.profilers.memory_timeline import draw_memory

What = Literal["time", "memory"]
BATCH, EPOCH = "run_training_batch", "run_training_epoch"  # as Lightning calls what it profiles
ROWS = 60  # of the table; chosen by us: what matters fits a screen or two
VIEWER = "https://ui.perfetto.dev"


class StepsProfiler(PyTorchProfiler):
    """Profiles optimizer steps [start, stop) of a fit, counted from 0 where this run begins.

    In its folder it writes a table by operator (``time_table.txt``) and a trace for Perfetto
    (``time_trace.json.gz``) that tells modules and hooks as well; of memory the same two and a
    picture of what tensors held over time (``memory_timeline.png``), and on CUDA what
    `memory.history` records of the allocator (``memory_snapshot.pickle`` and ``.html``). The last
    stands where torch's `export_memory_timeline` stood, which is deprecated in its favour.

    Files are written, whole or not at all, as soon as the last step is over, and with fewer steps
    when the run ends earlier, by an exception or Ctrl-C too. Rank zero profiles. A validation
    between these steps is in the trace. Profiled steps are slower; the others are not.

    Args:
        what: "time" or "memory".
        start: first step, 1 or more; the one before it warms the profiler up.
        stop: the step after the last.
        dirpath: folder; None takes ``profile`` in the logger's, or in the working folder.
        record_module_names: tell modules in the trace.

    Raises:
        ValueError: there is no such profile, or the steps are no range.
    """

    # Where Lightning's own goes wrong with a schedule, and what is done about it here:
    #
    # - It gives validation a step count of its own, so that a validation within the steps makes
    #   the schedule jump from recording to nothing, and torch throws the trace away: no
    #   function of Lightning's is a step, steps are counted below.
    # - Its step ends with the forward of a batch, and each batch of an accumulation is one: here
    #   it is what ends with the optimizer's.
    # - After an exception nobody stops it: files are missing and torch goes on profiling. It is
    #   closed when an exception leaves the epoch; Trainer asks for no more after that.
    # - A run that ends before the first step (one resumed at its end, too) ends with an assertion,
    #   when it is asked for events that are not there (Lightning's issue 13034): nobody asks here.
    # - It profiles the tests that follow a fit, on top of its files: only a fit counts.
    STEP_FUNCTIONS: set[str] = set()  # noqa: RUF012

    def __init__(
        self,
        what: What = "time",
        start: int = 5,
        stop: int = 8,
        dirpath: str | Path | None = None,
        record_module_names: bool = True,
    ) -> None:
        # First of all, since Lightning ends what it has not begun: it has a `__del__`.
        super().__init__(
            dirpath=dirpath,
            record_module_names=record_module_names,
            profile_memory=what == "memory",
            on_trace_ready=self._write,
        )
        if what not in get_args(What):
            raise ValueError(f"what={what!r}; expected one of {', '.join(get_args(What))}.")
        if not 1 <= start < stop:
            raise ValueError(f"start={start}, stop={stop}; expected 1 <= start < stop.")
        schedule = torch.profiler.schedule(wait=start - 1, warmup=1, active=stop - start, repeat=1)
        self._schedule, self._profiler_kwargs["schedule"] = None, schedule
        self.what, self.first, self.after = what, start, stop
        self.files: list[Path] = []
        self._is_on = self._has_fitted = False
        self._steps, self._last_step = 0, 0
        self._said = True

    def setup(self, stage: str, local_rank: int | None = None, log_dir: str | None = None) -> None:
        if self.dirpath is None:
            self.dirpath = Path(log_dir or ".") / "profile"
        super().setup(stage, local_rank, log_dir)
        self._is_on = stage == TrainerFn.FITTING and getattr(rank_zero_only, "rank", 0) == 0
        self._said = not self._is_on
        if stage != TrainerFn.FITTING and not self._has_fitted:
            rank_zero_info("StepsProfiler profiles a fit, and nothing else.")
        if self._is_on:
            self._has_fitted = True
            self.files, self._steps, self._last_step = [], 0, 0

    def start(self, action_name: str) -> None:
        if action_name == BATCH and self._steps == 0:
            self._last_step = self._global_step
        if self._is_on:
            super().start(action_name)

    def stop(self, action_name: str) -> None:
        super().stop(action_name)
        if self._is_on and action_name == BATCH and self._global_step != self._last_step:
            self._advance()

    @contextmanager
    def profile(self, action_name: str) -> Generator[str, None, None]:
        try:
            with super().profile(action_name):
                yield action_name
        except BaseException:
            if action_name == EPOCH:
                self.describe()
            raise

    def summary(self) -> str:
        """Write what is not written yet, and say once where files lie."""
        self._close()
        if self._said:
            return ""
        self._said = True
        if not self.files:
            return (
                f"Nothing was profiled: the run ended after {self._steps} steps, step {self.first} "
                "was to be the first. Name earlier ones, or let it run longer."
            )
        until = min(self._steps, self.after)
        files = "\n".join(f"  {path}{_how_to_open(path)}" for path in self.files)
        return f"Profile of {self.what}, steps {self.first} to {until - 1}:\n{files}"

    # ----------------------------------------------------------------------------------- inside

    @property
    def _global_step(self) -> int:
        assert self._lightning_module is not None
        return int(self._lightning_module.trainer.global_step)

    def _advance(self) -> None:
        """An optimizer step is over."""
        self._last_step = self._global_step
        self._steps += 1
        if self._steps == self.first and self.what == "memory":
            history.start(self)
        assert isinstance(self.profiler, torch.profiler.profile)
        self.profiler.step()
        if self._steps >= self.after:
            self._close()

    def _close(self) -> None:
        """Stop for good, which writes what was recorded."""
        self._is_on = False
        try:
            self._delete_profilers()
        finally:
            history.stop(self)

    def _cache_functions_events(self) -> None:
        """Lightning's would ask for events, where there may be none."""

    def _write(self, recorded: torch.profiler.profile) -> None:
        try:
            self._write_files(recorded)
        except OSError as error:  # a run does not end for its profile
            rank_zero_warn(f"The profile of {self.what} is lost: {error}")

    def _write_files(self, recorded: torch.profiler.profile) -> None:
        folder = Path(str(self.dirpath))
        device = "device" if torch.profiler.ProfilerActivity.CUDA in recorded.activities else "cpu"
        amount = "time_total" if self.what == "time" else "memory_usage"
        table = recorded.key_averages().table(sort_by=f"self_{device}_{amount}", row_limit=ROWS)
        self._add(folder / f"{self.what}_table.txt", table.encode())
        with tempfile.NamedTemporaryFile(suffix=".json") as plain:
            recorded.export_chrome_trace(plain.name)
            trace = Path(plain.name).read_bytes()
        self._add(folder / f"{self.what}_trace.json.gz", gzip.compress(trace))
        if self.what == "memory":
            self._add(folder / "memory_timeline.png", draw_memory(json.loads(trace)))
        if self.what == "memory" and history.can_record():
            self.files += history.write(history.take(), folder, "memory_snapshot")

    def _add(self, path: Path, content: bytes) -> None:
        write_atomically(path, lambda file: file.write(content))
        self.files.append(path)


def _how_to_open(path: Path) -> str:
    if path.name.endswith(".json.gz"):
        return f" (drop it on {VIEWER}, which keeps it in the browser)"
    if path.suffix == ".pickle":
        return " (drop it on https://pytorch.org/memory_viz)"
    return ""
