"""Which checkpoint a run goes on from, whether it fits, and which parts of it are taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from lightning_arrcoc.architecture import (
    architecture_of,
    as_table,
    differences,
    refuse_other,
    what_fits,
)
from lightning_arrcoc.callbacks.checkpointing.last_verified import find_last_verified, set_aside
from lightning_arrcoc.callbacks.checkpointing.random_states import restore_rng
from lightning_arrcoc.plugins.manifest import STAMPS, damaged
from lightning_arrcoc.plugins.sharded import verify_folder, was_begun

LAST_VERIFIED = "last_verified"
Resume = Literal["all", "weights", "without_optimizer", "without_loops"]
RESUME = ("all", "weights", "without_optimizer", "without_loops")


class Nothing(dict[str, Any]):
    """A checkpoint to start anew from: Lightning restores nothing from what is false."""

    def __bool__(self) -> bool:
        return False


class Loading:
    """Stands between a trainer and its strategy's `load_checkpoint`.

    Every way of loading passes there, sharded strategies' too, and nothing has been restored yet.
    """

    def __init__(self, trainer: pl.Trainer, folder: str, resume: Resume, partial: str | None):
        self.trainer, self.folder = trainer, folder
        self.resume, self.partial = resume, partial
        self.loaded_from: str | None = None
        self._rng: Mapping[str, Any] = {}
        self._original: Callable[..., Any] = trainer.strategy.load_checkpoint
        vars(trainer.strategy)["load_checkpoint"] = self._load

    def remove(self) -> None:
        """Give the strategy its own method back; harmless when repeated."""
        vars(self.trainer.strategy).pop("load_checkpoint", None)

    def restore_rng(self) -> None:
        """Go on drawing random numbers where this rank was, as far as that is known."""
        own = self._rng.get(str(self.trainer.global_rank))
        if own:
            restore_rng(own)

    def forget_rng(self) -> None:
        """There is nothing more to restore."""
        self._rng = {}

    def _load(self, path: str | Path, weights_only: bool | None = None) -> Any:
        chosen = self._choose(str(path))
        if chosen is None:
            rank_zero_warn(f"{self.folder} has no checkpoint yet: the run starts anew.")
            return Nothing({"pytorch-lightning_version": pl.__version__})
        self.loaded_from = chosen
        if "://" not in chosen and Path(chosen).is_dir():
            self._check_folder(Path(chosen))
        checkpoint = self._original(chosen, weights_only=weights_only)
        stamps = checkpoint.get(STAMPS) or {}
        saved = stamps.get("architecture") or {}
        if self.partial:
            keep_what_fits(checkpoint, saved, self.trainer.lightning_module)
        else:
            refuse_other(*comparable(checkpoint, saved, self.trainer.lightning_module))
        if self.resume == "all" and not self.partial:
            self._rng = stamps.get("rng") or {}
        select_parts(checkpoint, "weights" if self.partial else self.resume)
        return checkpoint

    def _choose(self, path: str) -> str | None:
        """What ``last_verified`` stands for, alone or in a folder that is named before it."""
        named, _, last = path.replace("\\", "/").rpartition("/")
        if last != LAST_VERIFIED:
            return path
        folder = named or self.folder
        found: str | None = self._agreed(
            lambda: find_last_verified(folder, lambda *what: set_aside(self.trainer, *what))
        )
        if found is None and named:
            raise FileNotFoundError(
                f"There is no checkpoint in {named!r}. Name another folder, or ckpt_path="
                f"{LAST_VERIFIED!r} to begin anew where this run has none yet."
            )
        return found

    def _check_folder(self, folder: Path) -> None:
        marker = self._agreed(lambda: verify_folder(folder))
        if self.partial:
            raise ValueError(f"{folder} is a folder; partial='report' takes files only.")
        if marker is None and was_begun(folder):
            raise damaged(str(folder), "it was never finished")
        if marker is None:
            rank_zero_warn(f"{folder} has no manifest; nothing tells whether it is what was saved.")
        elif marker.get("architecture"):
            refuse_other(marker["architecture"], architecture_of(self.trainer.lightning_module))

    def _agreed(self, work: Callable[[], Any]) -> Any:
        """Rank zero works, all know the outcome or raise its error."""
        outcome: Any = None
        if self.trainer.is_global_zero:
            try:
                outcome = work()
            except (ValueError, OSError) as error:
                outcome = error
        outcome = self.trainer.strategy.broadcast(outcome)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def comparable(
    checkpoint: Mapping[str, Any], saved: Mapping[str, Any], module: pl.LightningModule
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both architectures, as far as they are about the weights that are there.

    A module may leave out some of them when it saves, or rename them, and then sees to them
    itself, in `on_load_checkpoint`; that is called before any is loaded.
    """
    here, weights = architecture_of(module), checkpoint.get("state_dict") or {}
    if not weights:
        return dict(saved), here
    known = here["shapes"]
    told = saved.get("shapes") or {
        name: list(value.shape) for name, value in weights.items() if name in known
    }
    kept = {name: shape for name, shape in told.items() if name in weights}
    added = saved.get("shapes", known)
    here["shapes"] = {
        name: shape for name, shape in known.items() if name in kept or name not in added
    }
    return {**saved, "shapes": kept}, {**here, "shapes": here["shapes"] if kept else {}}


def keep_what_fits(
    checkpoint: dict[str, Any], saved: Mapping[str, Any], module: pl.LightningModule
) -> None:
    """Leave of a checkpoint's weights what the module has by name and shape, and print the rest.

    Raises:
        ValueError: nothing does.
    """
    state, weights = module.state_dict(), checkpoint["state_dict"]
    fitting = what_fits(weights, state)
    if not fitting:
        raise ValueError("Of the checkpoint nothing fits by name and shape; nothing was loaded.")
    rows = differences(*comparable(checkpoint, saved, module))
    rank_zero_info(
        f"Loaded {len(fitting)} of {len(weights)} tensors by name and shape"
        + (f"; these did not fit:\n{as_table(rows)}" if rows else ".")
    )
    checkpoint["state_dict"] = state | fitting
    checkpoint.get(STAMPS, {}).pop("architecture", None)  # it is no longer that of these weights


def select_parts(checkpoint: dict[str, Any], resume: Resume) -> None:
    """Leave out what a resumed run shall not go on with; Lightning restores the rest."""
    if resume in ("weights", "without_optimizer") and "optimizer_states" in checkpoint:
        checkpoint["optimizer_states"] = []
        checkpoint["lr_schedulers"] = []
    if resume in ("weights", "without_loops"):
        checkpoint.pop("loops", None)
    if resume == "weights":
        checkpoint.pop("callbacks", None)
