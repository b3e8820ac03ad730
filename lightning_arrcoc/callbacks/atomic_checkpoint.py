"""Checkpoints that can be relied on: saved whole, kept wisely, resumed from what is sound."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from lightning_arrcoc.atomic import sweep_temporaries
from lightning_arrcoc.callbacks.arguments import check_choice, check_counts
from lightning_arrcoc.callbacks.emergency import Agreed, Requests
from lightning_arrcoc.callbacks.resuming import RESUME, Loading, Resume
from lightning_arrcoc.callbacks.retention import Series, refuse_tricks
from lightning_arrcoc.callbacks.stamps import Stamps
from lightning_arrcoc.callbacks.verified_saving import SaveError, VerifiedSaving
from lightning_arrcoc.events import record
from lightning_arrcoc.plugins import sharded
from lightning_arrcoc.plugins.atomic_checkpoint_io import AtomicCheckpointIO

REQUEST = "SAVE"  # a file of this name in the folder asks for a save
SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1")


class AtomicCheckpoint(VerifiedSaving):
    """Changes how a run saves and resumes; stops it on Ctrl-C after a last save. Logs nothing.

    Everything Lightning's `ModelCheckpoint` does, and

    - what is saved is on disk, verified, and carries a manifest (`AtomicCheckpointIO`, installed
      where the strategy has Lightning's own);
    - best, last and periodic checkpoints are kept beside each other;
    - ``ckpt_path="last_verified"`` resumes from the latest step whose checkpoint is sound, or
      begins anew where there is none yet; ``"FOLDER/last_verified"`` does so in another folder, and
      is an error where there is none. Damaged ones are renamed to ``*.corrupt``;
    - it saves before the run ends badly: on an exception, SIGTERM, SIGINT (the second stops at
      once), SIGUSR1, a file named ``SAVE`` in the folder, and `request_save` from another callback.
      A request is acted on at the end of the training step, by all ranks at the same one. SIGTERM
      to any of them ends them all there;
    - inside are also the architecture, the states of all random generators, git commit, versions,
      host, time and metrics, under the key ``lightning_arrcoc``. Steps draw on where they stopped;
      which batches come is the loader's affair, and Lightning lets a plain one begin anew;
    - a checkpoint of another architecture is refused with a table, before a weight is touched. A
      module may offer ``architecture() -> dict`` for what the shapes of its tensors do not tell;
      what stands there under ``may_differ`` is told and not compared;
    - events are recorded: ``checkpoint/saved``, ``failed``, ``quarantined``, ``emergency``.

    With several of these callbacks the first one resumes and sees to emergencies.

    Args:
        dirpath, filename, monitor, verbose, save_last, save_top_k, save_weights_only, mode,
            auto_insert_metric_name, every_n_train_steps, train_time_interval, every_n_epochs,
            save_on_train_epoch_end, enable_version_counter: as `ModelCheckpoint` takes them.
        save_on_exception: also on signals and requests.
        periodic_every_n_steps: save ``periodic-step=N.ckpt`` as well; None saves none.
        keep_periodic: how many of them; -1 keeps all.
        async_save: training goes on while a copy of the checkpoint is written.
        on_save_error: "raise", or "warn" and go on with the checkpoint before.
        max_save_errors: so many in a row are endured with "warn".
        resume: what is restored: "all", "weights", "without_optimizer" (and its schedules) or
            "without_loops" (steps and epochs count from zero).
        partial: "report" loads what fits by name and shape from another architecture, weights only,
            and prints what did not; None refuses.
        signals: those that ask for a save; handlers of before are called too and come back.

    Raises:
        ValueError: an argument is not one of those named, or `filename` leads out of the folder.
    """

    def __init__(
        self,
        dirpath: str | Path | None = None,
        filename: str | None = None,
        monitor: str | None = None,
        verbose: bool = False,
        save_last: bool | Literal["link"] | None = None,
        save_top_k: int = 1,
        save_on_exception: bool = True,
        save_weights_only: bool = False,
        mode: str = "min",
        auto_insert_metric_name: bool = True,
        every_n_train_steps: int | None = None,
        train_time_interval: timedelta | None = None,
        every_n_epochs: int | None = None,
        save_on_train_epoch_end: bool | None = None,
        enable_version_counter: bool = True,
        *,
        periodic_every_n_steps: int | None = None,
        keep_periodic: int = -1,
        async_save: bool = False,
        on_save_error: Literal["raise", "warn"] = "raise",
        max_save_errors: int = 3,
        resume: Resume = "all",
        partial: Literal["report"] | None = None,
        signals: Sequence[str] = SIGNALS,
    ) -> None:
        refuse_tricks(filename)
        check_choice("on_save_error", on_save_error, ("raise", "warn"))
        check_choice("resume", resume, RESUME)
        check_choice("partial", partial, (None, "report"))
        check_choice("save_last", save_last, (None, True, False, "link"))
        for name in signals:
            check_choice("signals", name, SIGNALS)
        given = {"every_n_train_steps": every_n_train_steps, "every_n_epochs": every_n_epochs}
        check_counts(0, **{name: every for name, every in given.items() if every is not None})
        if periodic_every_n_steps is not None:
            check_counts(1, periodic_every_n_steps=periodic_every_n_steps)
        check_counts(-1, save_top_k=save_top_k, keep_periodic=keep_periodic)
        check_counts(0, max_save_errors=max_save_errors)
        if not isinstance(train_time_interval, timedelta | None):
            raise ValueError(f"train_time_interval={train_time_interval!r}; expected a timedelta.")
        if save_last == "link" and async_save:
            raise ValueError("save_last='link' would link to what is not written yet; use True.")
        super().__init__(
            dirpath, filename, monitor, verbose, save_last, save_top_k, save_on_exception,
            save_weights_only, mode, auto_insert_metric_name, every_n_train_steps,
            train_time_interval, every_n_epochs, save_on_train_epoch_end, enable_version_counter,
        )  # fmt: skip
        self.periodic_every_n_steps, self.async_save = periodic_every_n_steps, async_save
        self.on_save_error, self.max_save_errors = on_save_error, max_save_errors
        self.resume, self.partial = resume, partial
        self.periodic, self.emergencies = Series(keep_periodic), Series(1)
        self._requests, self._stamps = Requests(signals), Stamps()
        self._leader = self  # the first of several
        self._loading: Loading | None = None
        self._training = False

    @cached_property
    def state_key(self) -> str:
        return f"{super().state_key}[periodic={self.periodic_every_n_steps}]"

    def state_dict(self) -> dict[str, Any]:
        kept = {"periodic": self.periodic.paths, "emergencies": self.emergencies.paths}
        return super().state_dict() | kept

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if state_dict.get("dirpath") == self.dirpath:
            self.periodic.paths = list(state_dict.get("periodic", []))
            self.emergencies.paths = list(state_dict.get("emergencies", []))

    def request_save(self, reason: str) -> None:
        """Ask for a save at the end of this step; for other callbacks, and safe in a handler."""
        self._leader._requests.ask(reason)

    # ------------------------------------------------------------------------------ a run begins

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        install(trainer, self.async_save)
        found = trainer.checkpoint_callbacks
        self._leader = next((one for one in found if isinstance(one, AtomicCheckpoint)), self)
        if not self._leads:
            return
        if self._loading is not None:
            self._loading.remove()
        self._loading = Loading(trainer, str(self.dirpath), self.resume, self.partial)
        if stage != "fit" or not trainer.is_global_zero:
            return
        self._stamps.describe()
        for path in sweep(Path(str(self.dirpath))) if self._is_local else []:
            rank_zero_info(f"Removed {path}: its saving was broken off.")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._training = True
        loading = self._leader._loading
        self._resumed_from = loading.loaded_from if loading else None
        if self._leads:
            self._requests.agreement.start()
            if self.save_on_exception:
                self._requests.signals.install()
            if loading:
                loading.restore_rng()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._loading:
            if batch_idx:  # in the midst of an epoch its loader has drawn already
                self._loading.restore_rng()
            self._loading.forget_rng()

    @property
    def _leads(self) -> bool:
        return self._leader is self

    @property
    def _is_local(self) -> bool:
        return "://" not in str(self.dirpath)

    # ---------------------------------------------------------------------------- a step is done

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._tell_early(trainer)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        step, every = trainer.global_step, self.periodic_every_n_steps
        if every and step and step % every == 0 and not _is_trial(trainer):
            path = self._path(f"periodic-step={step}")
            if path not in self.periodic.paths:
                self._save_as(trainer, path, self.periodic, "periodic")
        if self._leads:
            if trainer.is_global_zero and self._is_local and self._request.exists():
                self.request_save(REQUEST)
            self._act(trainer, self._requests.agree(failed=self._io(trainer).has_error))

    def _act(self, trainer: pl.Trainer, agreed: Agreed) -> None:
        if agreed.failed:
            with self._enduring(trainer):
                self._know_the_last(trainer)
        if agreed.save and self.save_on_exception and not _is_trial(trainer):
            reason = self._requests.reason or "asked for by another rank"
            self._requests.reason = ""
            if trainer.is_global_zero:
                record(trainer, "checkpoint/emergency", reason=reason)
            path = self._path(f"emergency-step={trainer.global_step}")
            self._save_as(trainer, path, self.emergencies, reason)
            if trainer.is_global_zero and self._is_local:
                self._request.unlink(missing_ok=True)
        if agreed.stop:
            raise KeyboardInterrupt
        if agreed.end:
            raise SIGTERMException

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if self._leads:
            self._act(trainer, self._requests.agreed_last())
        self._training = False
        if self._io(trainer).async_save:
            with self._enduring(trainer):
                self._know_the_last(trainer)
        self._release()

    @property
    def _request(self) -> Path:
        return Path(str(self.dirpath)) / REQUEST

    # ------------------------------------------------------------------------------ what is inside

    def _before_saving(self, trainer: pl.Trainer) -> None:
        leader = self._leader
        leader._stamps.gather(leader._requests.agreement, self._reason)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._leads:
            self._stamps.put(checkpoint, trainer, pl_module, self._reason)

    # ------------------------------------------------------------------------------- a run ends

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Save without a word to other ranks: one of them may be gone, or wait elsewhere."""
        training, self._training = self._training, False
        self._release()
        io = trainer.strategy.checkpoint_io
        if not isinstance(io, AtomicCheckpointIO):
            return  # it failed before it began
        try:
            io.wait()
            error = io.take_error()
            if error is not None:
                rank_zero_warn(
                    f"A checkpoint could not be saved, the one before it stands: {error}"
                )
            if training and self._leads and self._is_worth_saving(trainer, exception):
                reason = type(exception).__name__
                record(trainer, "checkpoint/emergency", reason=reason)
                path = self._path(f"emergency-step={trainer.global_step}")
                self._save_alone(trainer, path, self.emergencies, reason)
                rank_zero_info(f"Saved {path} before ending with {reason}.")
        except Exception as error:  # what is shown in the end is the run's own error
            record(trainer, "checkpoint/failed", error=str(error), in_a_row=1)
            rank_zero_warn(f"No checkpoint could be saved after the run failed: {error}")

    def _is_worth_saving(self, trainer: pl.Trainer, exception: BaseException) -> bool:
        return (
            self._should_save_on_exception(trainer)
            and not self._requests.signals.stopped_at_once
            and not isinstance(exception, SaveError)
            and trainer.is_global_zero
            and sharded.rank_zero_has_all(trainer)
        )

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._release()

    def _release(self) -> None:
        self._requests.stop()
        if self._loading is not None:
            self._loading.remove()


def install(trainer: pl.Trainer, async_save: bool) -> None:
    """Have a trainer save through `AtomicCheckpointIO`, where it has Lightning's own plugin.

    Raises:
        MisconfigurationException: it has another one.
    """
    found = trainer.strategy.checkpoint_io
    if type(found) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = AtomicCheckpointIO(async_save)
    elif not isinstance(found, AtomicCheckpointIO):
        raise MisconfigurationException(
            f"AtomicCheckpoint saves through AtomicCheckpointIO, but the Trainer has a "
            f"{type(found).__name__}. Remove one of them."
        )


def sweep(folder: Path) -> list[Path]:
    """Remove what broken-off saves of ours left behind, and name it."""
    return sweep_temporaries(folder) + sharded.sweep_uncommitted(folder)


def _is_trial(trainer: pl.Trainer) -> bool:
    return bool(getattr(trainer, "fast_dev_run", False))  # set out of mypy's sight
