"""A registered file -> its small weights, verified and known to belong to the backbone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from lightning_arrcoc.compare.blueprint import Builder, LoraSettings, blueprint_of, lora_of
from lightning_arrcoc.compare.errors import (
    CompareError,
    MissingCheckpointError,
    OtherBackboneError,
    SwapError,
    UnsoundCheckpointError,
)
from lightning_arrcoc.plugins.checkpoint_file import load_open
from lightning_arrcoc.plugins.manifest import DamagedCheckpointError, Manifest
from lightning_arrcoc.plugins.verifying import opened, verify_open
from lightning_arrcoc.relevance.blueprint import Blueprint
from lightning_arrcoc.vlm.identity import differences
from lightning_arrcoc.vlm.lora import MARK
from lightning_arrcoc.weights import IDENTITY

OWN, ADAPTED = "arr_coc.", "backbone."  # how names in a checkpoint begin
FileStamp = tuple[int, int, int, int, int]


class Registered(NamedTuple):
    """A checkpoint that may be asked for.

    Attributes:
        name: what it is asked for by.
        path: where it lies.
        root: the folder that it may not leave; None where it was named by itself.
        build: makes its small network; None: a blueprint is read off the checkpoint.
    """

    name: str
    path: Path
    root: Path | None = None
    build: Builder | None = None


class Description(NamedTuple):
    """What a checkpoint says of itself.

    Attributes:
        manifest: step, metrics, versions.
        blueprint: of its small network; None where that is built otherwise.
        lora: its adapters' settings, None without.
        bytes: what its small weights take.
    """

    manifest: Manifest
    blueprint: Blueprint | None
    lora: LoraSettings | None
    bytes: int


class Weights(NamedTuple):
    """The small weights of a checkpoint, on the CPU.

    Attributes:
        tensors: by their names in the model, ``arr_coc...`` and those of adapters.
        build: makes the small network.
        lora: as in `Description`.
        stamp: which file they were read from.
    """

    tensors: Mapping[str, Tensor]
    build: Builder
    lora: LoraSettings | None
    stamp: FileStamp

    @property
    def bytes(self) -> int:
        return _bytes(self.tensors)


def stamp_now(entry: Registered) -> FileStamp:
    """By what a file is told from one that took its place.

    Raises:
        MissingCheckpointError: there is none, or it leads out of its folder.
    """
    try:
        where = entry.path.resolve(strict=True)
        found = where.stat()
    except OSError:
        raise _missing(entry) from None
    if entry.root is not None and not where.is_relative_to(entry.root):
        raise MissingCheckpointError(
            f"The checkpoint {entry.name!r} leads out of the folder that it was registered with."
        )
    return _stamp(found)


def describe(entry: Registered, identity: Mapping[str, Any]) -> Description:
    """Verify a checkpoint and tell what it is, without reading weights into memory.

    Raises:
        CompareError: as for `read`.
    """
    stamp_now(entry)
    with _sound(entry) as descriptor:
        return _examine(descriptor, entry, identity)[0]


def read(
    entry: Registered, identity: Mapping[str, Any], make_room: Callable[[str, int], None]
) -> Weights:
    """Verify a checkpoint and load its small weights, nothing else of it being kept.

    Args:
        entry: which.
        identity: of the backbone, by `backbone_identity`.
        make_room: called with name and bytes once they are known, before anything is loaded.

    Raises:
        MissingCheckpointError: the file is gone.
        UnsoundCheckpointError: it is not what was saved, has no manifest, holds objects, or was
            changed meanwhile.
        OtherBackboneError: it was trained on another backbone, or holds no small weights.
        SwapError: its architecture cannot be told.
    """
    stamp = stamp_now(entry)
    with _sound(entry) as descriptor:
        description, build = _examine(descriptor, entry, identity)
        make_room(entry.name, description.bytes)
        content = load_open(descriptor, entry.name, "cpu")
        read_from = _stamp(os.fstat(descriptor))
    if read_from != stamp:
        raise _unsound(entry, "it was changed while it was read")
    tensors = {name: value.clone() for name, value in _small(content["state_dict"]).items()}
    return Weights(tensors, build, description.lora, stamp)


@contextmanager
def _sound(entry: Registered) -> Iterator[int]:
    """The file's descriptor; what goes wrong with it is told without where it lies."""
    try:
        with opened(entry.path) as descriptor:
            yield descriptor
    except CompareError:
        raise
    except FileNotFoundError:
        raise _missing(entry) from None
    except DamagedCheckpointError as error:
        raise _unsound(entry, error.why) from None
    except OSError as error:
        raise _unsound(entry, f"it cannot be read ({error.strerror})") from None


def _examine(
    descriptor: int, entry: Registered, identity: Mapping[str, Any]
) -> tuple[Description, Builder]:
    """Judge an open file by everything but the values of its tensors."""
    try:
        manifest = verify_open(descriptor, entry.name)
        content = load_open(descriptor, entry.name, "meta")
    except DamagedCheckpointError:
        raise
    except ValueError as error:  # objects, or a manifest of another version
        raise _unsound(entry, str(error)) from None
    if manifest is None:
        raise _unsound(
            entry, "it has no manifest, so nobody can tell; AtomicCheckpoint saves with one"
        )
    state = content.get("state_dict") if isinstance(content, dict) else None
    small = _small(state) if isinstance(state, dict) else {}
    if not any(name.startswith(OWN) for name in small):
        raise OtherBackboneError(
            f"The checkpoint {entry.name!r} holds no weights of ARR-COC; expected one that "
            "training=arr_coc saved."
        )
    told = content.get(IDENTITY)
    other = differences(told, identity) if isinstance(told, Mapping) else ["it does not say which"]
    if other:
        raise OtherBackboneError(
            f"The checkpoint {entry.name!r} belongs to another backbone ({'; '.join(other[:3])}). "
            "Compare it on the one it was trained on."
        )
    try:
        lora = lora_of(content)
        blueprint = None if entry.build is not None else blueprint_of(content)
    except (ValueError, TypeError) as error:
        raise SwapError(
            f"The network of {entry.name!r} cannot be told from the checkpoint ({error}). Register "
            "it with arr_coc=, what builds that network."
        ) from None
    build = entry.build or blueprint
    assert build is not None
    return Description(manifest, blueprint, lora, _bytes(small)), build


def _small(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """ARR-COC's weights and those of adapters."""
    return {
        name: value
        for name, value in state.items()
        if isinstance(value, Tensor)
        and (name.startswith(OWN) or (name.startswith(ADAPTED) and MARK in name))
    }


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in tensors.values())


def _stamp(found: os.stat_result) -> FileStamp:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _missing(entry: Registered) -> MissingCheckpointError:
    return MissingCheckpointError(
        f"The file of the checkpoint {entry.name!r} is gone. Choose another, or register anew."
    )


def _unsound(entry: Registered, why: str) -> UnsoundCheckpointError:
    return UnsoundCheckpointError(
        f"The checkpoint {entry.name!r} is damaged or none: {why}. Choose another.", why
    )
