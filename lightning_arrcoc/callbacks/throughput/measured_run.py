"""A run whose pace is measured, from its first step to its last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_arrcoc.callbacks.throughput.clocks import HostClock, Mark
from lightning_arrcoc.callbacks.throughput.counting import Count, counts_of
from lightning_arrcoc.callbacks.throughput.fetching import FetchListener
from lightning_arrcoc.callbacks.throughput.ledger import (
    Lag,
    SmoothedLoss,
    Stragglers,
    Together,
    pace,
    put_together,
)
from lightning_arrcoc.callbacks.throughput.peak import peak_flops
from lightning_arrcoc.callbacks.throughput.rates import learning_rates
from lightning_arrcoc.callbacks.throughput.window import FIGURES, Window
from lightning_arrcoc.events import record
from lightning_arrcoc.memory.ranks import Ranks


class Settings(NamedTuple):
    """What `ThroughputMonitor` was made with."""

    every_n_steps: int | None
    samples: Callable[[Any], Count] | None
    tokens: Callable[[Any], Count] | None
    peak_flops: float | None
    warmup_steps: int
    smoothing_steps: int
    perplexity: bool
    straggler_share: float
    straggler_windows: int


class MeasuredRun:
    """Connects a Trainer's run with what times, counts and judges; one for each run.

    Args:
        settings: of the callback.
        trainer: that runs.
        module: what it trains.
        smoothed: the loss, as far as it is known already.
        clock: that times.
    """

    def __init__(
        self,
        settings: Settings,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        smoothed: SmoothedLoss,
        clock: HostClock,
    ) -> None:
        self.settings, self.trainer, self.module = settings, trainer, module
        self.smoothed, self.clock = smoothed, clock
        self._peak = settings.peak_flops or peak_flops(
            trainer.strategy.root_device, str(trainer.precision)
        )
        self._ranks = Ranks()
        self._ranks.start()
        self._stragglers = Stragglers(settings.straggler_share, settings.straggler_windows)
        profiler = trainer.profiler  # type: ignore[attr-defined]  # set out of its sight
        self._listener = FetchListener(profiler, self._fetching, self._fetched)
        self._window = Window(clock)
        self._before: Window | None = None  # which the device may not have ended yet
        self._warmup = settings.warmup_steps
        self._step = trainer.global_step
        self._last: Mark | None = clock.mark()  # where the next stretch begins
        self._began: Mark | None = None  # the forward under way
        self._asked_s: float | None = None  # the fetch under way
        self._said = False

    # ---------------------------------------------------------------------------- batch by batch

    def begin_batch(self) -> None:
        self._go_on()
        self._began = self.clock.mark()

    def before_backward(self) -> None:
        """The first of a batch: there ranks begin to wait for each other."""
        if self._began is not None:
            self._window.add_forward((self._began, self.clock.mark()))
            self._began = None

    def end_batch(self, outputs: Any, batch: Any) -> dict[str, float]:
        """Take in what a batch was, and give what there is to log."""
        now, self._began = self.clock.mark(), None
        begin, self._last = self._last or now, now
        ends_step, self._step = self.trainer.global_step != self._step, self.trainer.global_step
        if self._warmup > 0:
            self._warmup -= ends_step
            self._window = Window(self.clock)
            return {}
        self._window.add_batch((begin, now), ends_step)
        made = self.settings
        self._window.add_counts(counts_of(self.module, batch, made.samples, made.tokens))
        if (loss := self._loss(outputs)) is not None:
            self._window.add_loss(loss)
        return self._close() if ends_step and self._is_line else {}

    def pause(self) -> None:
        """What follows is no training, until a batch is asked for."""
        self._last = None

    def let_go(self) -> None:
        """Harmless when repeated."""
        self._listener.let_go()
        self._ranks.stop()

    def _go_on(self) -> None:
        if self._last is None:
            self._last = self.clock.mark()

    def _fetching(self) -> None:
        self._go_on()
        self._asked_s = self.clock.now()

    def _fetched(self) -> None:
        if self._asked_s is not None:
            self._window.wait_s += self.clock.now() - self._asked_s
        self._asked_s = None

    def _loss(self, outputs: Any) -> Tensor | None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else None
        if not isinstance(loss, Tensor):
            return None
        # Lightning has divided it by the batches of a step.
        parts = self.trainer.accumulate_grad_batches if self.module.automatic_optimization else 1
        return loss if parts == 1 else loss.detach() * parts

    @property
    def _is_line(self) -> bool:
        """Whether loggers take what is logged now, and enough steps lie in the window.

        The private property is the one that Lightning's own monitors read.
        """
        enough = self._window.steps >= (self.settings.every_n_steps or 1)
        return enough and bool(self.trainer._logger_connector.should_update_logs)

    # ------------------------------------------------------------------------------------ a line

    def _close(self) -> dict[str, float]:
        window, self._window = self._window, Window(self.clock)
        window.close(learning_rates(self.trainer.optimizers))
        # All ranks ask for the same window, whichever of their devices have come how far.
        told, self._before = (self._before, window) if self.clock.is_late else (window, None)
        if told is None:
            return {}
        unknown: list[float | None] = [None] * len(FIGURES)
        figures = told.figures() if told.is_past else unknown
        together = put_together(self._ranks.everyone(figures))
        if together is None:
            return {}
        world = self.trainer.world_size
        found = pace(together, told.step_seconds(), self._peak and self._peak * world)
        found |= self._curves(together) | told.rates | self._straggler(together)
        self._say_missing(together)
        return {f"throughput/{name}": value for name, value in found.items()}

    def _curves(self, together: Together) -> dict[str, float]:
        if together.loss is not None:
            self.smoothed.add(together.loss, together.steps)
        found = {"smoothed_loss": self.smoothed.value}
        if self.settings.perplexity and "tokens" in together.counts:
            found["perplexity"] = self.smoothed.perplexity
        return {name: value for name, value in found.items() if value is not None}

    def _straggler(self, together: Together) -> dict[str, float]:
        if together.own_s is None or len(together.own_s) < 2:
            return {}
        step_s = together.seconds / together.steps
        lag, is_told = self._stragglers.judge(together.own_s, step_s)
        if is_told:
            self._tell(lag, step_s)
        return {"straggler_rank": float(lag.rank), "straggler_lag_ms": 1000 * lag.seconds}

    def _tell(self, lag: Lag, step_s: float) -> None:
        windows = self.settings.straggler_windows
        if self.trainer.is_global_zero:
            record(
                self.trainer, "throughput/straggler_found",
                straggler=lag.rank, lag_ms=1000 * lag.seconds, windows=windows,
            )  # fmt: skip
        rank_zero_warn(
            f"Rank {lag.rank} holds the others up: before they meet it takes "
            f"{1000 * lag.seconds:.0f} ms longer, {lag.seconds / step_s:.0%} of a step, and did so "
            f"in {windows} windows in a row. Compare its data, its loader and its device's clock "
            "rate with another's."
        )

    def _say_missing(self, together: Together) -> None:
        """Once a run: what is not logged, and what would have it logged."""
        if self._said:
            return
        self._said = True
        name, missing = type(self.module).__name__, []
        if "samples" not in together.counts:
            missing.append("samples (no batch holds a tensor; pass samples=)")
        if "tokens" not in together.counts:
            missing.append("tokens (no input_ids; pass tokens=)")
        if "flops" not in together.counts:
            missing.append(f"MFU ({name} has neither flops_per_batch nor batch_counts with flops)")
        elif not self._peak:
            missing.append("MFU (the peak of this device is not known; pass peak_flops=)")
        if together.loss is None:
            missing.append(f"loss ({name}.training_step returned none that is finite)")
        if missing:
            rank_zero_info(f"ThroughputMonitor does not know: {', '.join(missing)}.")
