"""How fast a run goes, and what it waits for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from lightning_arrcoc.callbacks.arguments import check_counts, is_number
from lightning_arrcoc.callbacks.for_trainer import ForTrainer
from lightning_arrcoc.callbacks.throughput.clocks import clock_of
from lightning_arrcoc.callbacks.throughput.counting import Count
from lightning_arrcoc.callbacks.throughput.ledger import SmoothedLoss
from lightning_arrcoc.callbacks.throughput.measured_run import MeasuredRun, Settings


class ThroughputMonitor(ForTrainer):
    """Observes the pace of training: a line of figures each `log_every_n_steps`.

    Nothing waits for the device. On CUDA times are those of its stream, between events that are
    asked for a window later: a line tells of the window before, or of no times if the device has
    not come to its end yet. Elsewhere the host keeps time. Validation and what follows it until the
    next batch is asked for do not count; saving, logging and other callbacks do. Several processes
    tell each other their figures once a line.

    ====================================  ==========================================================
    logged                                what, in the window; sums over all processes
    ====================================  ==========================================================
    throughput/samples_per_s              samples
    throughput/tokens_per_s               tokens that the model read
    throughput/text_tokens_per_s,         of these, where the module tells them apart
    throughput/visual_tokens_per_s
    throughput/visual_tokens_saved_per_s  visual tokens that were left out
    throughput/data_wait_percent          of the time the process waited for a batch; a GPU may have
                                          had work queued meanwhile
    throughput/step_p50_ms,               optimizer steps of this process: half, and 95 of 100, took
    throughput/step_p95_ms                no longer
    throughput/mfu                        arithmetic done by what the devices could do: a share
    throughput/smoothed_loss              loss as training_step returns it, finite ones alone
    throughput/perplexity                 e to its power, where tokens are counted
    throughput/lr                         learning rate; ``lr_group_<n>`` of groups that differ, and
                                          ``optimizer_<n>/...`` if there are several
    throughput/straggler_rank             of several processes the one that is slowest before they
    throughput/straggler_lag_ms           meet, in loading and forward, and how much later it is
                                          than the median of the others, a step
    ====================================  ==========================================================

    What cannot be known is left out, and that is said once. Without a logger the figures are in
    `trainer.callback_metrics` alone.

    A module tells how much a batch holds by ``batch_counts(batch)``, asked after its step: a
    mapping from some of samples, tokens, text_tokens, visual_tokens, visual_tokens_saved and flops
    to numbers, or to tensors, which are read without waiting. Without it samples are the leading
    dimension of the batch's first tensor, tokens those of its ``input_ids`` without padding, and
    flops ``flops_per_batch``: an attribute, as Lightning's own monitor knows it, or a method.

    Under FSDP ranks meet in the forward already, so that a straggler shows less there. Steps that
    lie under way when a run ends are not logged.

    Lightning's own ThroughputMonitor waits for the device at every batch, needs a function to count
    samples, takes all batches to be equally large, counts the time between two batches of training
    in which nothing but validation ran by subtracting it, and knows neither waiting for data, step
    times, losses, stragglers nor several kinds of tokens. It measures validation, test and
    prediction as well; ours does not.

    Args:
        every_n_steps: a line has so many steps at least; None is as many as `log_every_n_steps`.
        samples, tokens: how many a batch holds; they have the first word.
        peak_flops: of one device, a second; None takes it from Lightning's table.
        warmup_steps: first steps of every run that are not counted: compilation, caches.
        smoothing_steps: after so many a loss's weight has fallen to about a third.
        perplexity: False where the loss is no cross-entropy in nats.
        straggler_share: of a step; a rank that lags by more, in `straggler_windows` windows in a
            row, is warned about once and recorded.
        straggler_windows: as said.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        samples: Callable[[Any], Count] | None = None,
        tokens: Callable[[Any], Count] | None = None,
        peak_flops: float | None = None,
        warmup_steps: int = 2,
        smoothing_steps: int = 100,
        perplexity: bool = True,
        straggler_share: float = 0.1,
        straggler_windows: int = 3,
    ) -> None:
        if every_n_steps is not None:
            check_counts(1, every_n_steps=every_n_steps)
        check_counts(1, smoothing_steps=smoothing_steps, straggler_windows=straggler_windows)
        check_counts(0, warmup_steps=warmup_steps)
        shares = [("straggler_share", straggler_share)]
        for name, number in [*shares, ("peak_flops", 1.0 if peak_flops is None else peak_flops)]:
            if not is_number(number) or number <= 0:
                raise ValueError(f"{name}={number!r}; expected a number above 0.")
        for name, count in (("samples", samples), ("tokens", tokens)):
            if count is not None and not callable(count):
                raise ValueError(f"{name}={count!r}; expected a function of a batch.")
        self.settings = Settings(
            every_n_steps, samples, tokens, peak_flops, warmup_steps, smoothing_steps, perplexity,
            straggler_share, straggler_windows,
        )  # fmt: skip
        self._smoothed = SmoothedLoss(smoothing_steps)
        self._run: MeasuredRun | None = None

    def identity(self) -> dict[str, Any]:
        return {"every_n_steps": self.settings.every_n_steps}

    def state_dict(self) -> dict[str, Any]:
        return {"smoothed": self._smoothed.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._smoothed.load_state_dict(state_dict.get("smoothed", {}))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        # The same Trainer goes on; another begins anew, and loads what it resumes from after this.
        if stage == "fit" and not trainer.global_step:
            self._smoothed = SmoothedLoss(self.settings.smoothing_steps)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        clock = clock_of(trainer.strategy.root_device)
        self._run = MeasuredRun(self.settings, trainer, pl_module, self._smoothed, clock)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._run:
            self._run.begin_batch()

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor
    ) -> None:
        if self._run:
            self._run.before_backward()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if self._run and (found := self._run.end_batch(outputs, batch)):
            # Tensors on the CPU: Lightning would move a number to the device, and wait for it.
            tensors = {key: torch.tensor(value) for key, value in found.items()}
            pl_module.log_dict(tensors, on_step=True, on_epoch=False, rank_zero_only=False)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._run:
            self._run.pause()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._release()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._release()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._release()

    def _release(self) -> None:
        run, self._run = self._run, None
        if run:
            run.let_go()
