"""A run whose gradients are watched, from its first step to its last."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.strategies import DeepSpeedStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from lightning_arrcoc.callbacks.gradients.engine_norms import EngineNorms
from lightning_arrcoc.callbacks.gradients.ledger import Reading
from lightning_arrcoc.callbacks.gradients.norms import (
    GradientNorms,
    named_parameters,
    parameters_of,
)
from lightning_arrcoc.callbacks.gradients.on_host import HostWatched
from lightning_arrcoc.callbacks.gradients.readback import Numbers
from lightning_arrcoc.callbacks.gradients.settings import Settings
from lightning_arrcoc.callbacks.gradients.sharding import Copies, copies_of
from lightning_arrcoc.callbacks.gradients.suspects import Batches, Beside, Suspects
from lightning_arrcoc.callbacks.gradients.telling import stop
from lightning_arrcoc.callbacks.gradients.watched import Watched, several
from lightning_arrcoc.callbacks.gradients.withholding import (
    Way,
    loss_scale,
    release,
    scale_of_gradients,
    scaler_of,
    way_to_withhold,
)


class WatchedRun:
    """Connects a Trainer's run with what measures, judges and acts; one for each run.

    Args:
        settings: of the callback.
        trainer: that runs.
        module: what it trains.
        state: as `state_dict` gave it, to go on with; empty to begin.
    """

    def __init__(
        self,
        settings: Settings,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        state: dict[str, Any],
    ) -> None:
        self.settings, self.trainer, self.module = settings, trainer, module
        self.stop_reason = ""
        self._state = dict(state.get("optimizers", {}))  # of those that have not stepped yet
        self._watched: dict[int, Watched] = {}
        self._loss: Tensor | None = None
        self._last: dict[int, tuple[Reading, list[float]]] = {}
        self._copies: Copies | None = None
        by_norm = trainer.gradient_clip_algorithm in (None, "norm")
        self._clip_value = float(trainer.gradient_clip_val or 0) or None if by_norm else None
        self._said: set[str] = set()
        self._is_idle = False
        self._engine_step = trainer.global_step
        self._by_engine = isinstance(trainer.strategy, DeepSpeedStrategy)
        if self._by_engine:
            if settings.consequences.act:
                rank_zero_warn("GradientMonitor skips no step under DeepSpeed, which steps itself.")
        else:
            try:
                self._copies = copies_of(trainer)
            except ValueError as error:
                self._refuse(str(error))
        sharded = self._by_engine or self._copies is not None
        self._suspects = Suspects(settings.find_module and not self._is_idle)
        self._suspects.prepare(module, sharded)
        self._draw_histograms(settings.watch)

    # ------------------------------------------------------------------------------ step by step

    def keep_batch(self, batch: Any, index: int) -> None:
        self._suspects.keep(batch, index)

    def add_loss(self, loss: Tensor) -> None:
        """Lightning has divided the losses of accumulated batches by their number."""
        if self.module.automatic_optimization and not self._is_idle and not self._by_engine:
            part = loss.detach().float()
            self._loss = part if self._loss is None else self._loss + part

    def before_step(self, optimizer: Optimizer) -> None:
        """Judge the gradients as they are now."""
        loss, self._loss = self._loss, None
        batches = self._suspects.take()
        if isinstance(optimizer, LBFGS) and not self._is_idle:
            self._refuse("LBFGS evaluates its loss several times a step")
        if self._is_idle or self._by_engine:
            return
        number = self._number(optimizer)
        watched = self._watch(number, optimizer)
        watched.end_update()  # of a step before in the same batch
        scaler = scaler_of(self.trainer)
        scale = scale_of_gradients(scaler, optimizer)
        way = way_to_withhold(optimizer, scaler, scale, len(watched.norms.parameters))
        self._judge(number, watched, loss, scale, way, batches)
        every = self.settings.update_ratio_every_n_steps
        if every and self.trainer.global_step % every == 0:
            watched.update.begin(parameters_of(optimizer))

    def after_batch(self) -> dict[str, float]:
        """Set optimizers free, and give what there is to log."""
        if self._by_engine and self.trainer.global_step != self._engine_step:
            self._engine_step = self.trainer.global_step
            self._judge_engine()
        for watched in self._watched.values():
            release(watched.optimizer)
            watched.end_update()
        return self._metrics() if self._is_logging else {}

    def tell_the_rest(self) -> None:
        """What is still under way when the run is over."""
        for number, watched in self._watched.items():
            self._take(number, watched, watched.readback.take())

    def let_go(self) -> None:
        for watched in self._watched.values():
            release(watched.optimizer)
        self._suspects.take()
        self._draw_histograms(None)

    def state_dict(self) -> dict[str, Any]:
        states = {number: watched.state_dict() for number, watched in self._watched.items()}
        return {"optimizers": {**self._state, **states}, "stop_reason": self.stop_reason}

    # ------------------------------------------------------------------------------------- inside

    def _judge(
        self, number: int, watched: Watched, loss: Tensor | None, scale: Tensor | None, way: Way,
        batches: Batches,
    ) -> None:  # fmt: skip
        scaler = scaler_of(self.trainer)
        verdict = watched.judge(loss, loss_scale(scaler) if scaler else None, scale)
        if verdict is None:
            release(watched.optimizer)
            return
        consequences = self.settings.consequences
        if way == "scaler" and consequences.spike_policy != "log" and not self._by_engine:
            self._say_once(
                "GradientMonitor only logs spikes here: under a GradScaler a fused optimizer skips "
                "what that one finds and nothing else. Set fused=False, or precision='bf16-mixed'."
            )
        bad = consequences.bad(verdict, way, scaler is not None)
        step = self.trainer.global_step - self._by_engine  # which has stepped already
        beside = Beside(step, verdict.measured.each, batches)
        numbers = watched.reading(verdict, bad)
        self._take(number, watched, watched.readback.exchange(numbers, beside))
        # Who knows already need not wait to look: weights are still what they were.
        if knows_at_once(numbers, way == "host" and consequences.act) and bool(verdict.nonfinite):
            self._look(watched, float(verdict.curves[1]), beside)
        consequences.withhold(watched.optimizer, bad, way)

    def _take(self, number: int, watched: Watched, arrived: tuple[list[float], Any] | None) -> None:
        """Numbers of the step before."""
        if arrived is None:
            return
        reading, groups = watched.read(arrived[0])
        self._last[number] = (reading, groups)
        beside = arrived[1] or Beside(self.trainer.global_step - 1)
        if reading.nonfinite and beside.finding is None:
            self._look(watched, reading.loss, beside)
        ledger = watched.ledger
        scaled = scaler_of(self.trainer) is not None
        reason = self.settings.consequences.follow(
            self.trainer, ledger, reading, beside, scaled, self._clip_value
        )
        if reason and not self.stop_reason:
            self.stop_reason = reason
            stop(self.trainer, reason)

    def _metrics(self) -> dict[str, float]:
        """Of the last step that is known, of every optimizer."""
        logged: dict[str, float] = {}
        for number, (reading, groups) in self._last.items():
            watched = self._watched[number]
            area = "grad" if len(self.trainer.optimizers) == 1 else f"grad/optimizer_{number}"
            found = watched.ledger.metrics(reading)
            names = [f"norm_group/{name}" for name in watched.norms.group_names]
            found |= dict(zip(names, groups, strict=True))
            logged |= {f"{area}/{name}": value for name, value in found.items()}
        return logged

    @property
    def _is_logging(self) -> bool:
        """Whether loggers take what this batch logs.

        `LightningModule.log` takes about 0.1 ms a key, whether or not anybody asks for it; so ours
        is asked for it then. Lightning's own monitors read the same private property.
        """
        return bool(self.trainer._logger_connector.should_update_logs)

    def _look(self, watched: Watched, loss: float, beside: Beside) -> None:
        """Where it began, once for many steps in a row, and not for a scaler's overflow."""
        overflow = scaler_of(self.trainer) is not None and math.isfinite(loss)
        if watched.ledger.nonfinite_in_a_row == 0 and not overflow:
            self._suspects.look(self.trainer, self.module, watched, beside)

    def _judge_engine(self) -> None:
        watched = self._watched.get(0)
        if watched is None:
            watched = self._new_watched(
                0, self.trainer.optimizers[0], EngineNorms(self.trainer.model, self.module.device)
            )
        self._judge(0, watched, None, None, "scaler", self._suspects.take())

    def _watch(self, number: int, optimizer: Optimizer) -> Watched:
        """What is known of an optimizer; measured anew when it was given further parameters."""
        watched = self._watched.get(number)
        parameters = parameters_of(optimizer)
        if watched is not None and len(watched.norms.parameters) == len(parameters):
            return watched
        if watched is not None:
            self._state[number] = watched.state_dict()
            self._last.pop(number, None)  # of other groups, maybe
        named = named_parameters(self.module, optimizer)
        return self._new_watched(
            number, optimizer, GradientNorms(named, self.settings.groups, self._copies)
        )

    def _new_watched(self, number: int, optimizer: Optimizer, norms: Any) -> Watched:
        made = self.settings
        on_host = isinstance(norms, GradientNorms) and norms.device.type == "cpu"
        kind = HostWatched if on_host and norms.copies is None and not several() else Watched
        watched = kind(
            optimizer, norms, made.window, made.sigma, made.warmup, made.consequences.act
        )
        if number in self._state:
            watched.load_state_dict(self._state.pop(number))
        self._watched[number] = watched
        return watched

    def _number(self, optimizer: Optimizer) -> int:
        return next(i for i, known in enumerate(self.trainer.optimizers) if known is optimizer)

    def _refuse(self, reason: str) -> None:
        self._is_idle = True
        rank_zero_warn(f"GradientMonitor does nothing in this run: {reason}.")

    def _say_once(self, words: str) -> None:
        if words not in self._said:
            self._said.add(words)
            rank_zero_warn(words)

    def _draw_histograms(self, what: str | None) -> None:
        trainer: Any = self.trainer
        for logger in trainer.loggers if self.settings.watch else []:
            if what and hasattr(logger, "watch"):
                logger.watch(self.module, what, trainer.log_every_n_steps)
            elif hasattr(logger, "watch"):
                logger.experiment.unwatch(self.module)


def knows_at_once(numbers: Numbers, asked: bool) -> bool:
    """Whether this process can read numbers without waiting, or has to wait for them anyway."""
    return not isinstance(numbers, Tensor) or numbers.device.type == "cpu" or asked
