"""Which checkpoint a run goes on from, whether it fits, and which parts of it are taken."""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from lightning_arrcoc.atomic import sync_folder
from lightning_arrcoc.callbacks.stamps import architecture_differences, architecture_of, as_table
from lightning_arrcoc.plugins.checkpoint_file import (
    STAMPS,
    DamagedCheckpointError,
    damaged,
    read_manifest,
    verify,
)
from lightning_arrcoc.plugins.sharded import is_sharded, read_marker, verify_folder, was_begun

LAST_VERIFIED = "last_verified"
Resume = Literal["all", "weights", "without_optimizer", "without_loops"]
RESUME = ("all", "weights", "without_optimizer", "without_loops")
CORRUPT = ".corrupt"


class Nothing(dict[str, Any]):
    """A checkpoint to start anew from: Lightning restores nothing from what is false."""

    def __bool__(self) -> bool:
        return False


class Found(NamedTuple):
    """Checkpoints of a folder: verifiable ones by step, and what else lies there."""

    by_step: list[tuple[int, Path]]
    damaged: list[Path]
    without_manifest: list[Path]


def find_checkpoints(folder: Path) -> Found:
    """Look at every checkpoint's manifest, not yet at its content; the newest step comes first."""
    found = Found([], [], [])
    for path in sorted(folder.glob("*.ckpt")):
        try:
            if is_sharded(path):
                marker = read_marker(path)
                if marker is not None:
                    found.by_step.append((int(marker["step"]), path))
            elif stat.S_ISREG(path.lstat().st_mode):  # a link's target has a name of its own
                manifest = read_manifest(path)
                if manifest is None:
                    found.without_manifest.append(path)
                else:
                    found.by_step.append((manifest.step, path))
        except (DamagedCheckpointError, OSError):
            found.damaged.append(path)
    found.by_step.sort(key=lambda pair: (-pair[0], pair[1].name))
    return found


def find_last_verified(folder: Path) -> Path | None:
    """The checkpoint of the latest step that is what was saved; damaged ones are renamed.

    Returns:
        None if the folder has no checkpoints at all.

    Raises:
        ValueError: there are some, and none of them verifies.
    """
    found = find_checkpoints(folder)
    for path in found.damaged:
        quarantine(path, "its manifest cannot be read")
    spoilt = len(found.damaged)
    for step, path in found.by_step:
        try:
            verify_folder(path) if path.is_dir() else verify(path)
        except (DamagedCheckpointError, OSError) as error:
            quarantine(path, str(error))
            spoilt += 1
            continue
        rank_zero_info(f"The last verified checkpoint is {path}, step {step}.")
        return path
    if spoilt or found.without_manifest:
        raise ValueError(
            f"{folder} has no checkpoint that can be verified: {spoilt} damaged, "
            f"{len(found.without_manifest)} without a manifest. Name one by its path to resume "
            "from it, or choose another folder to start anew."
        )
    return None


def quarantine(path: Path, why: str) -> Path:
    """Rename a damaged checkpoint so that nobody takes it for one, and say so."""
    place, number = path.with_name(path.name + CORRUPT), 1
    while place.exists():
        place, number = path.with_name(f"{path.name}{CORRUPT}-{number}"), number + 1
    path.rename(place)
    sync_folder(path.parent)
    rank_zero_warn(f"{path} is damaged ({why}) and was renamed to {place.name}.")
    return place


class Loading:
    """Stands between a trainer and its strategy's `load_checkpoint`.

    Every way of loading passes there, sharded strategies' too, and nothing has been restored yet.
    """

    def __init__(self, trainer: pl.Trainer, folder: str, resume: Resume, partial: str | None):
        self.trainer, self.folder = trainer, folder
        self.resume, self.partial = resume, partial
        self.loaded_from: str | None = None
        self.rng: Mapping[str, Any] | None = None
        self._original: Callable[..., Any] = trainer.strategy.load_checkpoint
        vars(trainer.strategy)["load_checkpoint"] = self._load

    def remove(self) -> None:
        """Give the strategy its own method back; harmless when repeated."""
        vars(self.trainer.strategy).pop("load_checkpoint", None)

    def _load(self, path: str | Path, weights_only: bool | None = None) -> Any:
        if str(path) == LAST_VERIFIED:
            chosen = self._agreed(lambda: find_last_verified(Path(self.folder)))
            if chosen is None:
                rank_zero_warn(f"{self.folder} has no checkpoint yet: the run starts anew.")
                return Nothing({"pytorch-lightning_version": pl.__version__})
            path = str(chosen)
        self.loaded_from = str(path)
        if "://" not in str(path) and Path(path).is_dir():
            self._check_folder(Path(path))
        checkpoint = self._original(path, weights_only=weights_only)
        module = self.trainer.lightning_module
        stamps = checkpoint.get(STAMPS) or {}
        saved = stamps.get("architecture") or shapes_in(checkpoint, module)
        fit_or_refuse(checkpoint, saved, module, self.partial)
        self.rng = stamps.get("rng") if self.resume == "all" and not self.partial else None
        select_parts(checkpoint, "weights" if self.partial else self.resume)
        return checkpoint

    def _check_folder(self, folder: Path) -> None:
        marker = self._agreed(lambda: verify_folder(folder))
        if marker is None and was_begun(folder):
            raise damaged(str(folder), "it was never finished")
        if marker is None:
            rank_zero_warn(f"{folder} has no manifest; nothing tells whether it is what was saved.")
        elif marker.get("architecture"):
            fit_or_refuse({}, marker["architecture"], self.trainer.lightning_module, None)

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


def shapes_in(checkpoint: Mapping[str, Any], module: pl.LightningModule) -> dict[str, Any]:
    """What a checkpoint without stamps tells of its architecture: names that both have."""
    here = architecture_of(module)["shapes"]
    weights = checkpoint.get("state_dict") or {}
    saved = {name: list(value.shape) for name, value in weights.items() if name in here}
    return {"own": {}, "shapes": here | saved if saved else {}}


def fit_or_refuse(
    checkpoint: dict[str, Any],
    saved: Mapping[str, Any],
    module: pl.LightningModule,
    partial: str | None,
) -> None:
    """Refuse an architecture that differs, or with `partial` keep what fits.

    Raises:
        ValueError: they differ; a table says in what.
    """
    here = architecture_of(module)
    if not saved.get("own"):
        here = here | {"own": {}}
    rows = architecture_differences(saved, here)
    if not rows:
        return
    if saved.get("class", here["class"]) != here["class"]:
        rows.insert(0, ["class", str(saved["class"]), str(here["class"])])
    if partial is None:
        raise ValueError(
            f"The checkpoint has another architecture, nothing was loaded:\n{as_table(rows)}\n"
            "Build the model as it was saved, or take what fits: partial='report'."
        )
    state, weights = module.state_dict(), checkpoint["state_dict"]
    fitting = {
        name: value
        for name, value in weights.items()
        if name in state and state[name].shape == value.shape
    }
    if not fitting:
        raise ValueError("Of the checkpoint nothing fits by name and shape; nothing was loaded.")
    rank_zero_info(
        f"Loaded {len(fitting)} of {len(weights)} tensors by name and shape; these did not fit:\n"
        f"{as_table(rows)}"
    )
    checkpoint["state_dict"] = state | fitting


def select_parts(checkpoint: dict[str, Any], resume: Resume) -> None:
    """Leave out what a resumed run shall not go on with; Lightning restores the rest."""
    if resume in ("weights", "without_optimizer") and "optimizer_states" in checkpoint:
        checkpoint["optimizer_states"] = []
        checkpoint["lr_schedulers"] = []
    if resume in ("weights", "without_loops"):
        checkpoint.pop("loops", None)
    if resume == "weights":
        checkpoint.pop("callbacks", None)
