"""Checkpoints that survive crashes, full disks and power cuts."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO

from lightning_arrcoc.plugins import remote
from lightning_arrcoc.plugins.background import Background
from lightning_arrcoc.plugins.checkpoint_file import load_open, write_checkpoint
from lightning_arrcoc.plugins.manifest import DamagedCheckpointError
from lightning_arrcoc.plugins.snapshot import Snapshots
from lightning_arrcoc.plugins.space import MARGIN_BYTES, refuse_full_disk, tensor_bytes
from lightning_arrcoc.plugins.verifying import opened, verify_open


class AtomicCheckpointIO(CheckpointIO):
    """Changes how a run writes its checkpoints: whole, verified and on disk, or not at all.

    A save counts when its bytes were read back from the disk and the name stands in its folder for
    good; until then the file before it is untouched. What was saved carries its own manifest (see
    `manifest`), by which loading verifies it. Objects are never loaded, only tensors and
    plain types, and saving what could not be loaded so is refused at once. Needs a POSIX system.

    Args:
        async_save: copy the checkpoint to memory of the CPU and write it in a thread. Saves and
            removals happen one after the other; an error of a save is kept for `take_error`, and
            raised by the next save, load or `teardown` where nobody took it. The interpreter waits
            for the last save before it ends.
    """

    def __init__(self, async_save: bool = False) -> None:
        self.async_save = async_save
        self.last_verified: str | None = None
        self._snapshots = Snapshots()
        self._background = Background("checkpoint-save")
        self._error: Exception | None = None
        self._failed = False  # whether the latest save did
        self._saving: set[str] = set()
        self._holding = False
        self._warned = False

    # ------------------------------------------------------------------------------------ saving

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Save, or raise and leave everything as it was.

        Raises:
            OSError: it cannot be written, or what is on disk is not what was written.
            ValueError: it holds objects.
            TypeError: `storage_options` were given.
        """
        if storage_options is not None:
            raise TypeError("AtomicCheckpointIO takes no storage_options; remove them.")
        if not self.async_save:
            self.attempt(str(path), lambda: save(checkpoint, str(path)))
            self._raise_unless_held()
            return
        self.wait()  # the copy of the last one may still be in use
        self._raise_unless_held()
        taken = self._snapshots.take(checkpoint)
        self._saving.add(str(path))
        self._background.do(self.attempt, str(path), lambda: save(taken, str(path)))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint, after the saves that were asked for before it.

        The last verified one stays, and so do all when the save before failed.
        """
        if self.async_save:
            self._background.do(self._remove, str(path))
        else:
            self._remove(str(path))

    def wait(self) -> None:
        """Until nothing is being saved or removed."""
        self._background.wait()

    def take_error(self) -> Exception | None:
        """The error of a save, once."""
        error, self._error = self._error, None
        return error

    @contextmanager
    def holding_errors(self) -> Iterator[None]:
        """A failed save raises nothing inside: other ranks wait where it would never arrive."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False

    def teardown(self) -> None:
        """Wait for the last save.

        Raises:
            Exception: its error, if nobody took it.
        """
        self._background.stop()
        self._raise_unless_held()

    @property
    def has_error(self) -> bool:
        """Whether `take_error` has one."""
        return self._error is not None

    def is_saving(self, path: str | None = None) -> bool:
        """Whether this checkpoint, or any, is still being written."""
        return bool(self._saving) if path is None else path in self._saving

    def attempt(self, path: str, work: Callable[[], object]) -> None:
        """Do what makes a checkpoint a verified one: if it fails, so does the save."""
        try:
            work()
            self.last_verified, self._failed = path, False
        except Exception as error:
            self._error, self._failed = error, True
        finally:
            self._saving.discard(path)

    def _remove(self, path: str) -> None:
        if self._failed or self.last_verified == path:
            return
        try:
            remove(path)
        except OSError as error:  # the run can go on with a file too many
            warnings.warn(f"{path!r} could not be removed: {error}", stacklevel=2)

    def _raise_unless_held(self) -> None:
        if self._error is not None and not self._holding:
            raise self.take_error() or AssertionError

    # ----------------------------------------------------------------------------------- loading

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load what was verified to be what was saved.

        Args:
            path: a file; of remote ones only those that were saved by this plugin.
            map_location: as for `torch.load`; None takes the CPU.
            weights_only: nothing else is done, so False is refused.

        Raises:
            FileNotFoundError: there is none.
            DamagedCheckpointError: it is not what was saved.
            ValueError: a URL, or it holds objects, or `weights_only` is False.
        """
        if weights_only is False:
            raise ValueError(
                "weights_only=False would run whatever code the checkpoint holds. Leave it out."
            )
        self.wait()
        if remote.is_remote(str(path)):
            with remote.downloaded(str(path)) as copied:
                return self._load(copied, str(path), map_location or "cpu", needs_manifest=True)
        return self._load(remote.local_path(str(path)), str(path), map_location or "cpu")

    def _load(
        self, path: str, name: str, map_location: Any, *, needs_manifest: bool = False
    ) -> dict[str, Any]:
        with opened(path) as descriptor:
            manifest = verify_open(descriptor, name)
            if manifest is None and needs_manifest:
                raise DamagedCheckpointError(
                    f"{name!r} has no manifest; of remote files only checkpoints that were saved "
                    "with one are loaded. Download it and name the file."
                )
            if manifest is None and not self._warned:
                self._warned = True
                warnings.warn(
                    f"{name!r} has no manifest, as those of stock Lightning: it is loaded, but "
                    "nothing tells whether it is what was saved.",
                    stacklevel=3,
                )
            return load_open(descriptor, name, map_location)


def save(checkpoint: dict[str, Any], path: str) -> None:
    """Write to a disk with room for it, or to a store.

    Raises:
        OSError, ValueError: as for `write_checkpoint`.
    """
    if remote.is_remote(path):
        remote.upload(checkpoint, path)
        return
    local = remote.local_path(path)
    refuse_full_disk(tensor_bytes(checkpoint) + MARGIN_BYTES, local)
    write_checkpoint(checkpoint, local)


def remove(path: str) -> None:
    """Remove a file, a folder or an object; none there is no error.

    Raises:
        OSError: it cannot be removed.
    """
    if remote.is_remote(path):
        remote.remove(path)
        return
    target = Path(remote.local_path(path))
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
