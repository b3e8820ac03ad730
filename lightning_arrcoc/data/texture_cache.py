"""Textures on disk, in LMDB: a folder of shards that many may read, each written by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import lmdb
from filelock import FileLock, Timeout
from torch import Tensor

from lightning_arrcoc.data import lmdb_files
from lightning_arrcoc.data.texture_entry import unpack

SHARDS = "shard-*.mdb"


class TextureCache:
    """Textures that were measured before, for any number of processes at once.

    It can be handed to other processes; each opens the files by itself. The folder must lie on a
    disk of this machine while it is written: LMDB maps its files into memory and locks by machine.
    It trusts its own pages, a small part of a file: damage there, unlike in an entry, may end the
    process that reads it.

    Args:
        folder: where `build_textures` wrote, or several times from several machines, copied into
            one.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).resolve()
        self._shards: list[Path] | None = None

    def get(self, key: bytes) -> Tensor | None:
        """Textures ``(C, H, W)`` fp16; None where no shard has them undamaged.

        Raises:
            ValueError: a file is none of ours, cut short, or another version wrote it.
        """
        if self._shards is None:
            self._shards = self.shards()
        for shard in self._shards:
            try:
                found = lmdb_files.look_up(
                    shard, key, lambda value: None if value is None else unpack(key, value)
                )
            except (lmdb.CorruptedError, lmdb.PageNotFoundError):
                continue  # what leads to the value is damaged
            if found is not None:
                return found
        return None

    def check(self) -> None:
        """Whether there is something to read.

        Raises:
            FileNotFoundError: the folder holds no cache.
            ValueError: as for `get`.
        """
        if not self.shards():
            raise FileNotFoundError(
                f"No texture cache in {str(self.folder)!r}. Build it: python -m lightning_arrcoc "
                f"cache data.texture_cache={self.folder}"
            )
        len(self)

    def __len__(self) -> int:
        return sum(lmdb_files.count(shard) for shard in self.shards())

    def bytes_on_disk(self) -> int:
        """Of all shards."""
        return sum(shard.stat().st_size for shard in self.shards())

    def shards(self) -> list[Path]:
        """Files that hold something, by number."""
        found = sorted(self.folder.glob(SHARDS))
        return [shard for shard in found if not lmdb_files.is_unborn(shard)]


class TextureWriter:
    """Writes one shard, as the only one who does: a second writer waits until this one is done.

    What is put is on disk, all of it or nothing. A writer that is killed leaves a cache without
    the batch it was writing.

    Args:
        folder: made where it is missing.
        shard: number of the file.
        rebuild: remove every shard of the folder first.
        tell: hears that another process is being waited for.

    Raises:
        OSError: on entering, the folder cannot be made or written.
        ValueError: on entering, another version wrote the shard, or it is damaged.
    """

    def __init__(
        self,
        folder: str | Path,
        shard: int = 0,
        *,
        rebuild: bool = False,
        tell: Callable[[str], object] = print,
    ) -> None:
        self.path = Path(folder).resolve() / f"shard-{shard:05d}.mdb"
        self.rebuild, self.tell = rebuild, tell
        self._lock = FileLock(self.path.with_suffix(".writer"))

    def __enter__(self) -> TextureWriter:
        try:
            self._acquire()
        except OSError as error:
            raise OSError(
                f"Textures cannot be written to {str(self.path.parent)!r}: {error.strerror}. Name "
                "a folder of your own with data.texture_cache=FOLDER; one that is whole is read as "
                "it is with data.build_textures=false."
            ) from error
        try:
            if self.rebuild:
                for shard in self.path.parent.glob(SHARDS):
                    lmdb_files.close(shard)
                    shard.unlink()
                    Path(f"{shard}-lock").unlink(missing_ok=True)
            lmdb_files.start_writing(self.path)
        except BaseException:
            self._leave()
            raise
        return self

    def _acquire(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            self.tell(f"Another process writes {str(self.path)!r}; waiting until it is done.")
            self._lock.acquire(poll_interval=0.5)

    def put(self, entries: Mapping[bytes, bytes]) -> None:
        """Write a batch of packed textures by key, over what lies there.

        Raises:
            OSError: the disk is full, or refuses for another reason. What was there still is.
        """
        lmdb_files.write(self.path, entries)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        lmdb_files.stop_writing(self.path)
        self._lock.release()
