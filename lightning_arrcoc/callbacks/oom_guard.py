"""What happens when memory has run out."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.loops.optimization.automatic import ClosureResult
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_arrcoc.callbacks.arguments import check_choice, check_counts
from lightning_arrcoc.callbacks.for_trainer import ForTrainer
from lightning_arrcoc.callbacks.out_of_memory.micro_batches import (
    Aside,
    Step,
    guard_closures,
    release_closures,
)
from lightning_arrcoc.callbacks.out_of_memory.reducing import Reducing
from lightning_arrcoc.callbacks.out_of_memory.witness import Witness, usual_samples
from lightning_arrcoc.events import record
from lightning_arrcoc.memory import history
from lightning_arrcoc.memory.cause import is_out_of_memory
from lightning_arrcoc.memory.freeing import empty_caches, let_go
from lightning_arrcoc.memory.splitter import Splitter
from lightning_arrcoc.memory.splitting import (
    REDUCTIONS,
    CannotSplitError,
    Part,
    Reduction,
    has_ignored_labels,
)

Policy = Literal["raise", "skip", "split"]
POLICIES = ("raise", "skip", "split")
TOLD = "_told_by_oom_guard"  # on errors whose cause was said
NORMALISATION = torch.nn.modules.batchnorm._BatchNorm


class OOMGuard(ForTrainer):
    """Stops a run out of memory with its cause, or changes the step so that it goes on.

    Logs nothing; events tell what happened (`memory/ran_out`, `memory/batch_skipped`,
    `memory/batch_split`, `memory/split_eased`). Whatever the policy, the likely cause is said in
    one sentence, and the evidence goes to `oom/step=N-rank=R`: what was asked for and free, the
    batch's shapes, the largest tensors by module, and on CUDA the allocator's snapshot, taken at
    the failure itself, with a timeline as a page (see `memory.history.write`). Then the frames that
    the error came through let go of their tensors.

    - "raise": the error ends the run.
    - "skip": the batch is left out, its gradients dropped; one process only. Lightning counts the
      step.
    - "split": the batch runs in parts whose gradients add up to the whole batch's within rounding;
      half as large until it fits. The size stays for the steps that follow, and doubles again after
      `raise_after` steps that went well. What depends on the other samples of a batch (batch
      normalisation, contrastive losses) sees those of its part alone, and dropout draws anew. A
      batch whose samples nobody can tell is not split: the module may offer
      ``split_batch(batch, most)``, which gives pairs of a part and its share in the loss.

    An error in the optimizer's step always ends the run: weights may be half changed. So does one
    in validation. Under DDP every rank splits for itself, then all agree and average their
    gradients (`Reducing`); where a batch of one sample does not fit, all stop together, and a
    checkpoint is saved: by `AtomicCheckpoint` if there is one, else by the trainer.

    With accumulated batches, "skip" and "split" hold the gradients of the batches before apart: so
    much more memory is needed when a backward ends.

    Args:
        policy: "raise", "skip" or "split".
        reduction: how the module's loss is made of its samples', for "split": "mean", "sum", or
            "tokens" (`memory.splitting.split`).
        raise_after: steps.
        reports: evidence is written so many times in a run.
        history_entries: allocations and frees of the timeline; 0 records none.

    Raises:
        ValueError: a policy or reduction that is none, or a number that is too small.
    """

    def __init__(
        self,
        policy: Policy = "raise",
        reduction: Reduction = "mean",
        raise_after: int = 100,
        reports: int = 3,
        history_entries: int = history.ENTRIES,
    ) -> None:
        check_choice("policy", policy, POLICIES)
        check_choice("reduction", reduction, REDUCTIONS)
        check_counts(1, raise_after=raise_after)
        check_counts(0, reports=reports, history_entries=history_entries)
        self.policy, self.reduction = policy, reduction
        self.splitter = Splitter(reduction, raise_after)
        self._witness = Witness(reports, history_entries)
        self._reducing: Reducing | None = None
        self._phase = "start"
        self._has_split = False

    def identity(self) -> dict[str, Any]:
        return {"policy": self.policy}

    def state_dict(self) -> dict[str, Any]:
        return dict(self.splitter.state())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.splitter.restore(state_dict)

    # ----------------------------------------------------------------------------- a run begins

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.policy == "raise" or stage != "fit":
            return
        if not pl_module.automatic_optimization:
            raise MisconfigurationException(
                f"OOMGuard(policy={self.policy!r}) needs automatic optimization, but "
                f"{type(pl_module).__name__} optimizes by hand. Choose policy='raise'."
            )
        if self.policy == "skip" and trainer.world_size > 1:
            raise MisconfigurationException(
                f"OOMGuard(policy='skip') serves one process; there are {trainer.world_size}. "
                "Choose policy='split' or 'raise'."
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._has_split = False
        self._witness.start()
        if self.policy != "raise":
            self._reducing = Reducing(trainer, pl_module)
        if pl_module.automatic_optimization:
            guard_closures(trainer, lambda step: self._run(trainer, pl_module, step))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._phase = "training step"

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._phase = "time between steps"
        self._witness.step(trainer, batch)

    # ------------------------------------------------------------------------------------ a step

    def _run(self, trainer: pl.Trainer, pl_module: pl.LightningModule, step: Step) -> ClosureResult:
        """What Lightning's closure does; and when that fails, what the policy says."""
        if self._reducing is None:
            result, error = self._attempt(trainer, pl_module, step, [])
        else:
            result, error = self._act(trainer, pl_module, step, self._reducing)
        if result is None:
            assert error is not None
            raise error
        self._phase = "optimizer step"
        return result

    def _act(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, step: Step, reducing: Reducing
    ) -> tuple[ClosureResult | None, BaseException | None]:
        aside = Aside(step.parameters) if step.accumulates else None
        due = reducing.is_due
        with reducing.held_back():
            result, error = self._persist(trainer, pl_module, step)
        if aside is not None:
            aside.put_back()
        if reducing.alone:
            return result, error
        failed, have = reducing.agree(result is None, step.parameters)
        if failed is not None:
            step.clear()
            _save_together(trainer)
            return None, error or _told(
                torch.OutOfMemoryError(f"Rank {failed} ran out of memory; all stop together.")
            )
        if due:
            reducing.average(step.parameters, have)
        return result, None

    def _persist(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, step: Step
    ) -> tuple[ClosureResult | None, BaseException | None]:
        """Try until it works, or there is nothing left to try."""
        how = (getattr(pl_module, "split_batch", None), usual_samples(trainer))
        while True:
            try:
                parts = self.splitter.parts(step.batch, *how)
            except CannotSplitError:
                parts = []  # this one is whole, though others were split
            result, error = self._attempt(trainer, pl_module, step, parts)
            if error is None:
                if self.splitter.went_well(len(parts)):
                    record(trainer, "memory/split_eased", samples=self.splitter.most)
                return result, None
            step.clear()
            empty_caches()
            if self.policy == "skip":
                record(trainer, "memory/batch_skipped")
                return ClosureResult(None), None
            try:
                lowered = self.splitter.lower(step.batch, *how)
            except CannotSplitError as refusal:
                warnings.warn(
                    f"The batch cannot be split: {refusal}. Offer split_batch(batch, most) in "
                    f"{type(pl_module).__name__}.", stacklevel=2,
                )  # fmt: skip
                return None, error
            if not lowered:
                return None, error
            self._tell_split(trainer, pl_module, step.batch)

    def _attempt(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, step: Step, parts: list[Part]
    ) -> tuple[ClosureResult | None, BaseException | None]:
        hook = pl_module._current_fx_name  # Lightning does not set it back after an error
        try:
            return (step.run_in(parts) if parts else step.run()), None
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._witness.tell(trainer, pl_module, error, step.phase, step.batch)
            let_go(error)
            pl_module._current_fx_name = hook
            return None, _told(error)

    def _tell_split(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any) -> None:
        record(trainer, "memory/batch_split", samples=self.splitter.most)
        if self._has_split:
            return
        self._has_split = True
        if any(isinstance(part, NORMALISATION) for part in pl_module.modules()):
            warnings.warn(
                "Batch normalisation sees the samples of a part alone: the gradient of a batch in "
                "parts is not quite the whole batch's.", stacklevel=2,
            )  # fmt: skip
        if self.reduction == "mean" and has_ignored_labels(batch):
            warnings.warn(
                "Some labels are -100: if the loss is a mean over the others, choose "
                "OOMGuard(reduction='tokens').", stacklevel=2,
            )  # fmt: skip

    # ------------------------------------------------------------------------------- a run ends

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        if is_out_of_memory(exception):
            if not getattr(exception, TOLD, False):
                phase = "validation" if _is_validating(trainer) else self._phase
                self._witness.tell(trainer, pl_module, exception, phase, None)
            let_go(exception)
            empty_caches()
        self._release(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._release(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._release(trainer)

    def _release(self, trainer: pl.Trainer) -> None:
        release_closures(trainer)
        self._witness.stop()
        if self._reducing is not None:
            self._reducing.stop()
            self._reducing = None


def _save_together(trainer: pl.Trainer) -> None:
    """All ranks have agreed to end here; `AtomicCheckpoint` saves when it sees the error."""
    if any(hasattr(callback, "request_save") for callback in trainer.checkpoint_callbacks):
        return
    name = f"emergency-step={trainer.global_step}.ckpt"
    trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / name)


def _told(error: BaseException) -> BaseException:
    setattr(error, TOLD, True)
    return error


def _is_validating(trainer: pl.Trainer) -> bool:
    return bool(trainer.validating or trainer.sanity_checking)
