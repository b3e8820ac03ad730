"""What a user reads of bad steps, and what is recorded of them."""

from __future__ import annotations

from collections.abc import Sequence

import lightning.pytorch as pl
import torch.distributed as dist
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lightning_arrcoc.callbacks.gradients.ledger import ADVICE, Reading
from lightning_arrcoc.events import record

MOST_NAMES = 5


def in_words(names: Sequence[str]) -> str:
    """The first few, and how many more."""
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def gathered(finding: str) -> str:
    """What the ranks found, for all of them; each of them has to ask."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return finding
    found: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(found, finding)
    if len(set(found)) == 1:
        return finding
    return " ".join(f"Rank {rank}: {words}" for rank, words in enumerate(found))


def tell_nonfinite(
    trainer: pl.Trainer, step: int, names: Sequence[str], finding: str, withheld: bool
) -> None:
    """Once per episode."""
    record(
        trainer, "gradient/nonfinite_found",
        at_step=step, parameters=list(names), finding=finding, skipped=withheld,
    )  # fmt: skip
    where = f"Gradients that are not: {in_words(names)}." if names else ""
    done = "The step was skipped." if withheld else "The step was not skipped: policy is 'log'."
    rank_zero_warn(" ".join(filter(None, [f"Step {step} is not finite.", finding, where, done])))


def tell_spike(trainer: pl.Trainer, step: int, reading: Reading, aloud: bool) -> None:
    """Record each, and warn of the first in a row."""
    parts = []
    if reading.norm_spike:
        parts.append(f"gradient norm {reading.norm:.4g} (limit {reading.norm_limit:.4g})")
    if reading.loss_spike:
        parts.append(f"loss {reading.loss:.4g} (limit {reading.loss_limit:.4g})")
    withheld = bool(reading.withheld)
    record(
        trainer, "gradient/spike_found", at_step=step, norm=reading.norm, loss=reading.loss,
        norm_limit=reading.norm_limit, loss_limit=reading.loss_limit, skipped=withheld,
    )  # fmt: skip
    if aloud:
        done = " The step was skipped." if withheld else ""
        rank_zero_warn(f"Step {step} is a spike: {' and '.join(parts)}.{done}")


def tell_episode(trainer: pl.Trainer, step: int, episode: str, reading: Reading) -> None:
    """That gradients began to explode or to vanish, and what to try."""
    record(
        trainer, f"gradient/{episode}", at_step=step, norm=reading.norm, median=reading.norm_median
    )
    rank_zero_warn(
        f"Gradients are {episode} at step {step}: norm {reading.norm:.3g}, where the median of the "
        f"last steps is {reading.norm_median:.3g}. {ADVICE[episode]}"
    )


def stop(trainer: pl.Trainer, reason: str) -> None:
    """End the run as early stopping does: after this step, and with a last word."""
    trainer.should_stop = True
    record(trainer, "run/stopped", reason=reason)
    rank_zero_warn(f"GradientMonitor stops the run: {reason}")
