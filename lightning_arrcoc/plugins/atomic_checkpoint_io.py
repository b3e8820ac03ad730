"""Checkpoints that survive crashes, full disks and power cuts."""

from __future__ import annotations

import errno
import shutil
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from lightning_arrcoc.plugins import remote
from lightning_arrcoc.plugins.checkpoint_file import (
    DamagedCheckpointError,
    Manifest,
    load_open,
    opened,
    verify_open,
    write_checkpoint,
)
from lightning_arrcoc.plugins.snapshot import Snapshots

MARGIN_BYTES = 1 << 20  # Chosen by us: names, pickled structure and manifest beside the tensors


class AtomicCheckpointIO(CheckpointIO):
    """Changes how a run writes its checkpoints: whole, verified and on disk, or not at all.

    A save counts when its bytes were read back from the disk and the name stands in its folder for
    good; until then the file before it is untouched. What was saved carries its own manifest (see
    `checkpoint_file`), by which loading verifies it. Objects are never loaded, only tensors and
    plain types, and saving what could not be loaded so is refused at once. Needs a POSIX system.

    Args:
        async_save: copy the checkpoint to memory of the CPU and write it in a thread. Saves and
            removals happen one after the other; an error of a save is kept for `take_error`, and
            raised by the next save, load or `teardown` where nobody took it. The interpreter waits
            for the last save before it ends.
    """

    def __init__(self, async_save: bool = False) -> None:
        self.async_save = async_save
        self.last_verified: tuple[str, Manifest] | None = None
        self._snapshots = Snapshots()
        self._thread: ThreadPoolExecutor | None = None
        self._running: Future[None] | None = None
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
            self._attempt(checkpoint, str(path))
            self._raise_unless_held()
            return
        self.wait()  # the copy of the last one may still be in use
        self._raise_unless_held()
        taken = self._snapshots.take(checkpoint)
        self._saving.add(str(path))
        self._later(self._attempt, taken, str(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint, after the saves that were asked for before it.

        The last verified one stays, and so do all when the save before failed.
        """
        if self.async_save:
            self._later(self._remove_or_warn, str(path))
        else:
            self._remove_or_warn(str(path))

    def wait(self) -> None:
        """Until nothing is being saved or removed."""
        if self._running is not None:
            self._running.result()

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
        if self._thread is not None:
            self._thread.shutdown(wait=True)
            self._thread = self._running = None
        self._raise_unless_held()

    @property
    def has_error(self) -> bool:
        """Whether `take_error` has one."""
        return self._error is not None

    def is_saving(self, path: str | None = None) -> bool:
        """Whether this checkpoint, or any, is still being written."""
        return bool(self._saving) if path is None else path in self._saving

    def attempt(self, work: Callable[[], None]) -> None:
        """Do something that belongs to a save: if it fails, so does the save."""
        try:
            work()
            self._failed = False
        except Exception as error:
            self._error, self._failed = error, True

    def _attempt(self, checkpoint: dict[str, Any], path: str) -> None:
        def save() -> None:
            self.last_verified = path, self._save(checkpoint, path)

        self.attempt(save)
        self._saving.discard(path)

    def _save(self, checkpoint: dict[str, Any], path: str) -> Manifest:
        if remote.is_remote(path):
            return remote.upload(checkpoint, path)
        local = remote.local_path(path)
        refuse_full_disk(tensor_bytes(checkpoint) + MARGIN_BYTES, local)
        return write_checkpoint(checkpoint, local)

    def _remove_or_warn(self, path: str) -> None:
        try:
            self._remove(path)
        except OSError as error:  # the run can go on with a file too many
            warnings.warn(f"{path!r} could not be removed: {error}", stacklevel=2)

    def _remove(self, path: str) -> None:
        if self._failed or (self.last_verified and self.last_verified[0] == path):
            return
        if remote.is_remote(path):
            remote.remove(path)
            return
        target = Path(remote.local_path(path))
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    def _later(self, work: Callable[..., None], *arguments: Any) -> None:
        if self._thread is None:
            # Its thread is joined before the interpreter ends.
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint-save")
        self._running = self._thread.submit(work, *arguments)

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


def tensor_bytes(value: Any) -> int:
    """Bytes of the memory behind all tensors in nested containers, shared ones once."""
    storages: dict[int, int] = {}

    def visit(part: Any) -> None:
        if isinstance(part, torch.Tensor):
            if type(part) in (torch.Tensor, torch.nn.Parameter) and part.layout == torch.strided:
                storage = part.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(part, dict):
            for inner in part.values():
                visit(inner)
        elif isinstance(part, list | tuple):
            for inner in part:
                visit(inner)

    visit(value)
    return sum(storages.values())


def refuse_full_disk(needed: int, path: str) -> None:
    """Find out before writing gigabytes that they will not fit.

    Raises:
        OSError: ENOSPC.
    """
    folder = Path(path).absolute().parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"No space left: a checkpoint of {needed / 2**20:.0f} MiB is to be saved beside the "
            f"last one and {free / 2**20:.0f} MiB are free. Make room, or save elsewhere",
            path,
        )
