"""Gradients that are watched for free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.optim import Optimizer

from lightning_arrcoc.callbacks.for_trainer import ForTrainer
from lightning_arrcoc.callbacks.gradients.consequences import Consequences
from lightning_arrcoc.callbacks.gradients.settings import Settings, checked_groups
from lightning_arrcoc.callbacks.gradients.watched_run import WatchedRun


class GradientMonitor(ForTrainer):
    """Observes gradients before every step; with a policy it withholds bad steps or stops the run.

    Norms are taken before clipping, once for each step of an optimizer, whatever it accumulates,
    and without the scale of a GradScaler. Nothing waits for the device: numbers are known a step
    after theirs and logged at every `log_every_n_steps`, and a run that stops does so a step late.
    Only an optimizer that is not fused has to be asked before its step where a policy acts, which
    is one wait a step on a GPU.

    =========================  ==================================================================
    logged                     what
    =========================  ==================================================================
    grad/norm                  over all gradients of a step
    grad/norm_group/<group>    over those of a group
    grad/nonfinite_steps       steps with NaN or infinity in gradients or loss, since the beginning
    grad/skipped_steps         steps that changed nothing, those that a GradScaler left out too
    grad/spikes                steps beyond `sigma`
    grad/clip_fraction         share of the last `window` steps whose norm is above
                               Trainer(gradient_clip_val=...), where that clips by norm
    grad/update_ratio          norm of the last measured update by that of the weights
    =========================  ==================================================================

    With several optimizers each has its own ``grad/optimizer_<number>/...``.

    Under DDP gradients agree, and so do all decisions; the loss does not, so that acting on it
    costs a sum of one number a step. Under FSDP and `ModelParallelStrategy` there is one sum, which
    loss and norms share. DeepSpeed tells its norm after the step: it is logged and can stop the
    run, but nothing is skipped. A GradScaler skips by itself what is not finite; beside a fused
    optimizer it alone can, so that spikes are only logged there. LBFGS, XLA and strategies that are
    not known are left alone, with a warning; gradients that ranks keep apart (local SGD) are not
    noticed.

    In manual optimization losses are not judged, since several may belong to several optimizers. A
    skipped step still counts in `trainer.global_step` and for schedulers.

    Args:
        policy: what follows on a step that is not finite: ``log`` alone, ``skip`` it, or skip it
            and ``stop``. A single overflow that a GradScaler skips is its way to a scale and stops
            nothing.
        spike_policy: the same for spikes; None is as `policy`.
        patience: skipped steps in a row after which the run stops.
        sigma: standard deviations above the mean of the last steps from which on a loss or a norm
            is a spike.
        window: how many last steps that are.
        warmup: steps that are learnt from before any is judged; None is `window`. Name as many as
            the learning rate warms up.
        groups: how many leading parts of a parameter's name make its group, 0 for none; or globs.
        update_ratio_every_n_steps: how often weights are copied before a step to see how far it
            moves them, at most 2**26 numbers; 0 is never.
        find_module: whether to name the first module whose output is not finite, by running the
            batch once more when it happened. Batches are kept until that is known.
        watch: have Weights & Biases draw histograms of these, which is not free.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(
        self,
        policy: Literal["log", "skip", "stop"] = "log",
        spike_policy: Literal["log", "skip", "stop"] | None = None,
        patience: int = 10,
        sigma: float = 6.0,
        window: int = 128,
        warmup: int | None = None,
        groups: int | Sequence[str] = 1,
        update_ratio_every_n_steps: int = 100,
        find_module: bool = True,
        watch: Literal["gradients", "parameters", "all"] | None = None,
    ) -> None:
        self.settings = Settings(
            consequences=Consequences(
                policy, policy if spike_policy is None else spike_policy, patience
            ),
            sigma=sigma,
            window=window,
            warmup=window if warmup is None else warmup,
            groups=checked_groups(groups),
            update_ratio_every_n_steps=update_ratio_every_n_steps,
            find_module=find_module,
            watch=watch,
        )
        self.settings.check()
        self._run: WatchedRun | None = None
        self._state: dict[str, Any] = {}  # of a run that has not begun, or is over

    def identity(self) -> dict[str, Any]:
        # A run may go on with another policy.
        return {"groups": self.settings.groups, "window": self.settings.window}

    @property
    def stop_reason(self) -> str:
        """Why the last run was stopped; empty if it was not."""
        return self._run.stop_reason if self._run else str(self._state.get("stop_reason", ""))

    def state_dict(self) -> dict[str, Any]:
        return self._state if self._run is None else self._run.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._state = state_dict

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        # The same Trainer goes on; another begins anew, and loads what it resumes from after this.
        self._state, self._run = self.state_dict() if trainer.global_step else {}, None
        watch = self.settings.watch
        if watch and not any(hasattr(logger, "watch") for logger in trainer.loggers):
            raise MisconfigurationException(
                f"GradientMonitor(watch={watch!r}) has Weights & Biases draw histograms, but the "
                "Trainer has no WandbLogger. Give it one, or leave `watch` out."
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._run = WatchedRun(self.settings, trainer, pl_module, self._state)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._run:
            self._run.keep_batch(batch, batch_idx)

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor
    ) -> None:
        if self._run:
            self._run.add_loss(loss)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Lightning calls this after unscaling and before clipping, within `optimizer.step`."""
        if self._run:
            self._run.before_step(optimizer)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if self._run and (found := self._run.after_batch()):
            pl_module.log_dict(found, on_step=True, on_epoch=False)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        run, self._run = self._run, None
        if run:
            run.tell_the_rest()
            self._state = run.state_dict()  # for a checkpoint that is saved after the run
            run.let_go()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """What is known is not read here: a device that failed would raise once more."""
        if self._run:
            self._run.let_go()
