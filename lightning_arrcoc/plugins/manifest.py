r"""What a checkpoint says of itself, and how it stands at the end of its file.

A checkpoint is what `torch.save` writes, a zip archive, whose comment is a manifest: JSON with
step, size, digest and versions, followed by a digest of its own:

    PK... archive ... PK\5\6 + length of the comment | MAGIC | manifest | sha256 of the manifest

Archives of `torch.save` have no comment otherwise.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import NamedTuple

SCHEMA = 1
STAMPS = "lightning_arrcoc"  # key in a checkpoint: what the callback adds
MAGIC = b"lightning-arrcoc-manifest\n"
RECORD, RECORD_BYTES = b"PK\x05\x06", 22  # a zip's last record, without its comment
LEGACY = b"\x80"  # how a checkpoint of torch before 1.6 begins: a bare pickle
LONGEST_COMMENT = 2**16 - 1
HASH_LENGTH = 64


class DamagedCheckpointError(ValueError):
    """Its content is not what was written.

    Attributes:
        why: in a few words.
    """

    def __init__(self, message: str, why: str = "") -> None:
        super().__init__(message)
        self.why = why or message


class Manifest(NamedTuple):
    """What a checkpoint says of itself."""

    step: int
    size: int  # bytes of the archive
    sha256: str  # see HashedStream
    epoch: int = 0
    schema: int = SCHEMA
    reason: str = ""
    metrics: Mapping[str, float] = {}
    versions: Mapping[str, str] = {}

    def encode(self) -> bytes:
        """As it stands in the archive's comment."""
        text = json.dumps(self._asdict(), sort_keys=True).encode()
        return MAGIC + text + b"\n" + hashlib.sha256(text).hexdigest().encode()


def manifest_of(descriptor: int, name: str = "the file") -> Manifest | None:
    """The manifest at the end of an open file.

    Raises:
        DamagedCheckpointError: a part is missing or changed.
    """
    size = os.fstat(descriptor).st_size
    start = max(0, size - RECORD_BYTES - LONGEST_COMMENT)
    tail = os.pread(descriptor, size - start, start)
    place = tail.rfind(RECORD)
    if place < 0 or len(tail) - place < RECORD_BYTES:
        if size and os.pread(descriptor, 1, 0) == LEGACY and MAGIC not in tail:
            return None
        raise damaged(name, "its end is missing" if size else "it is empty")
    comment = tail[place + RECORD_BYTES :]
    if len(comment) != int.from_bytes(
        tail[place + RECORD_BYTES - 2 : place + RECORD_BYTES], "little"
    ):
        raise damaged(name, "it has another length than it was written with")
    if not comment:
        return None
    text, _, digest = comment.removeprefix(MAGIC).rpartition(b"\n")
    if not comment.startswith(MAGIC) or hashlib.sha256(text).hexdigest().encode() != digest:
        raise damaged(name, "its manifest is changed")
    found = json.loads(text)
    if found.get("schema") != SCHEMA:
        raise ValueError(
            f"{name!r} has a manifest of schema {found.get('schema')}; expected {SCHEMA}. Install "
            "the version of lightning_arrcoc that wrote it."
        )
    manifest = Manifest(**{key: found[key] for key in Manifest._fields})
    if manifest.size != size - len(comment):
        raise damaged(name, "it has another length than its manifest says")
    return manifest


def damaged(name: str, why: str) -> DamagedCheckpointError:
    """An error that says what to do."""
    return DamagedCheckpointError(
        f"{name!r} is damaged or no checkpoint: {why}. Choose another, or 'last_verified' in its "
        "place: that finds the latest sound one.",
        why,
    )
