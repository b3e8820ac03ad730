"""What a run has under way when a checkpoint is written, so that a resumed one ends the same.

Random generators are not among it: `AtomicCheckpoint` keeps their states.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torchmetrics import MeanMetric

UNDER_WAY = "under_way"  # key in a checkpoint


def under_way(module: pl.LightningModule, mean: MeanMetric) -> dict[str, Any]:
    """What lives between two steps, as plain tensors.

    Args:
        module: in training. Where gradients are being accumulated and the next step lies ahead,
            they are kept; of several processes those of the first.
        mean: over the epoch so far, of all processes; of this one alone once the run has failed,
            for others may wait elsewhere.
    """
    with mean.sync_context(should_sync=not module.trainer.interrupted):
        so_far = {name: getattr(mean, name).clone() for name in ("mean_value", "weight")}
    return {
        "mean": so_far,
        "gradients": _gradients(module) if _steps_later(module) else {},
    }


def take_up(module: pl.LightningModule, mean: MeanMetric, saved: dict[str, Any]) -> None:
    """Put everything back; what all processes had together is the first one's."""
    mean.reset()
    mean.update(0.0, weight=0.0)  # else torchmetrics warns that nothing was measured
    if module.trainer.is_global_zero:
        for name, value in saved["mean"].items():
            setattr(mean, name, value.to(mean.device))
    parameters = dict(module.named_parameters())
    for name, gradient in saved["gradients"].items():
        parameters[name].grad = gradient.to(parameters[name].device)


def settle_loops(checkpoint: dict[str, Any], *, by_steps: bool) -> None:
    """Let Lightning go on at the very place where a run was saved, and count epochs rightly.

    Behind an epoch's last batch it saves before it counts that batch as complete; resumed, it
    begins the next epoch without having called `on_train_epoch_end`. Where the end of a run is set
    in steps, it counts as complete an epoch that this end cut short, and, saved in
    `on_train_epoch_end`, one processed epoch too many, which later resumes take for a place they
    are not at.

    Args:
        checkpoint: as Lightning reads it; changed in place.
        by_steps: the end of the run is set by `max_steps`.
    """
    loop = checkpoint.get("loops", {}).get("fit_loop")
    if not loop:
        return
    batches, epochs = loop["epoch_loop.batch_progress"], loop["epoch_progress"]
    counted = batches["total"]["completed"] == batches["total"]["processed"]
    if batches["is_last_batch"] and not counted:
        for counts in (batches["total"], batches["current"]):
            counts["completed"] = counts["processed"]
        loop["epoch_loop.state_dict"]["_batches_that_stepped"] += 1
    if by_steps:
        for counts in (epochs["total"], epochs["current"]):
            if not batches["is_last_batch"]:
                counts["completed"] = counts["started"] - 1
            counts["processed"] = counts["completed"]


def _steps_later(module: pl.LightningModule) -> bool:
    """Whether the batch that was trained on last waits for others before the optimizer steps."""
    trainer = module.trainer
    taken = trainer.fit_loop.batch_idx + 1
    return taken % trainer.accumulate_grad_batches != 0 and not trainer.is_last_batch


def _gradients(module: pl.LightningModule) -> dict[str, torch.Tensor]:
    found = ((name, parameter.grad) for name, parameter in module.named_parameters())
    return {name: gradient.clone() for name, gradient in found if gradient is not None}
