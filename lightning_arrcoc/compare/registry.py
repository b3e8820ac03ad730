"""Checkpoints by the names that they are asked for by; a name is never a path."""

from __future__ import annotations

from pathlib import Path

from lightning_arrcoc.compare.blueprint import Builder
from lightning_arrcoc.compare.contestants import BUILT_IN
from lightning_arrcoc.compare.errors import MissingCheckpointError, UnknownCheckpointError
from lightning_arrcoc.compare.reading import Registered

LONGEST_NAME = 200  # Chosen by us: what still fits beside a picture, in two lines
SUFFIX = ".ckpt"
MOST_NAMED = 8  # Chosen by us: an error that lists more is not read


class Registry:
    """Who may be asked. Registering is what makes a file readable, nothing else does."""

    def __init__(self) -> None:
        self._entries: dict[str, Registered] = {}

    @property
    def names(self) -> list[str]:
        """Built-in contestants, then checkpoints."""
        return [*BUILT_IN, *sorted(self._entries)]

    def __getitem__(self, name: str) -> Registered:
        """What is registered by a name.

        Raises:
            UnknownCheckpointError: nothing.
        """
        if not isinstance(name, str) or name not in self._entries:
            first, more = ", ".join(self.names[:MOST_NAMED]), len(self.names) > MOST_NAMED
            raise UnknownCheckpointError(
                f"There is no checkpoint {name!r:.80}; expected one of {first}{', ...' * more}."
            )
        return self._entries[name]

    def add(self, name: str, path: str | Path, build: Builder | None) -> None:
        """A single file.

        Raises:
            MissingCheckpointError: there is no such file.
            ValueError: a bad name, or one that is taken by another file.
        """
        where = Path(path).absolute()
        if not where.is_file():
            raise MissingCheckpointError(f"There is no file for the checkpoint {name!r}.")
        self._add(Registered(name, where, None, build))

    def add_folder(self, folder: str | Path) -> list[str]:
        """Every checkpoint below a folder, named by its path there without its suffix.

        One that is called like a built-in contestant keeps its suffix. Hidden files, names that
        cannot be shown, links that lead out of the folder and sharded checkpoints, which are
        folders, are left out.

        Returns:
            Their names, in order.

        Raises:
            MissingCheckpointError: there is no such folder.
            ValueError: a name is taken by a file elsewhere.
        """
        root = Path(folder).resolve()
        if not root.is_dir():
            raise MissingCheckpointError("The folder of checkpoints is not there.")
        found = []
        for path in root.rglob(f"*{SUFFIX}"):
            inside = path.relative_to(root)
            hidden = any(part.startswith(".") for part in inside.parts)
            name = inside.with_suffix("").as_posix()
            name = inside.as_posix() if name in BUILT_IN else name
            is_here = path.is_file() and path.resolve().is_relative_to(root)
            if not hidden and is_here and _can_be_shown(name):
                found.append(Registered(name, path, root))
        for entry in sorted(found):
            self._add(entry)
        return sorted(entry.name for entry in found)

    def _add(self, entry: Registered) -> None:
        name = entry.name
        if not _can_be_shown(name):
            raise ValueError(f"name={name!r:.80}; expected 1 to {LONGEST_NAME} printable letters.")
        if name in BUILT_IN:
            raise ValueError(f"{name!r} is a contestant that is there always; choose another name.")
        if self._entries.setdefault(name, entry).path != entry.path:
            raise ValueError(f"{name!r} is the name of another checkpoint already.")


def _can_be_shown(name: str) -> bool:
    return bool(name.strip()) and len(name) <= LONGEST_NAME and name.isprintable()
