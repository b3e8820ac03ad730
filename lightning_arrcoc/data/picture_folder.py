"""Bytes of pictures by the names that a data set gives them, and nothing else."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

MOST_BYTES = 256 * 2**20  # chosen by us: 64 million pixels of 32 bits, not compressed
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
LOCAL = ("file", "local")  # as URLs these would lead around the rules for paths


class PictureFolder:
    """Reads the pictures that lines of a data set name.

    Names come from whoever wrote the lines: they reach regular files below one folder, and no
    others unless it is allowed here. Nothing is opened over a network unless `root` is a URL
    itself or `protocols` says so.

    Args:
        root: a folder, or the URL of one that fsspec understands, such as ``s3://bucket/images``.
        allow_outside: also read absolute paths, and what links and ``..`` lead to.
        protocols: kinds of URL that a line may name, such as ``[https, s3]``.

    Raises:
        ValueError: there is no such folder, or a protocol cannot be allowed.
    """

    def __init__(
        self, root: str | Path, *, allow_outside: bool = False, protocols: Sequence[str] = ()
    ) -> None:
        named = [protocols] if isinstance(protocols, str) else list(protocols)
        self.url = "://" in str(root)
        own = [protocol_of(str(root))] if self.url else []
        for protocol in (*named, *own):
            if protocol in LOCAL or not protocol.replace("+", "").isalnum():
                raise ValueError(
                    f"{protocol!r} is no kind of URL that can be allowed; expected one such as "
                    "https or s3. Name local folders by their path."
                )
        if not self.url and not Path(root).is_dir():
            raise ValueError(f"images={str(root)!r} is no folder; name the one with the pictures.")
        self.root = str(root).rstrip("/") if self.url else os.path.realpath(root)
        self.allow_outside, self.protocols = allow_outside, tuple(named)

    def encoded(self, picture: Any) -> tuple[str, bytes]:
        """What errors call a picture of a row, and its bytes.

        Args:
            picture: a name, bytes, or a mapping with `bytes` and `path`, as datasets stores them.

        Raises:
            ValueError: it is nothing of these, or as for `read`.
        """
        if isinstance(picture, Mapping):
            name, content = picture.get("path"), picture.get("bytes")
            picture = name if content is None else content
        if isinstance(picture, bytes):
            return "the picture in this row", picture
        if not isinstance(picture, str):
            raise ValueError("no picture: neither bytes nor a path.")
        return picture, self.read(picture)

    def read(self, name: str) -> bytes:
        """The encoded picture of this name.

        Raises:
            FileNotFoundError: there is none of this name.
            ValueError: the name leads where it must not, or to something that is no file or too
                large.
            OSError: it is there and cannot be read.
            ImportError: fsspec needs another package for this kind of URL.
        """
        if not name or any(ord(letter) < 32 for letter in name):
            raise ValueError(f"{name!r} is no name of a picture.")
        if "://" in name:
            protocol = protocol_of(name)
            if protocol in LOCAL:
                raise ValueError(f"{shown(name)!r} is a URL; name local pictures by their path.")
            if protocol not in self.protocols:
                raise ValueError(
                    f"{shown(name)!r} is a URL, and none of this kind is opened unless it is "
                    f"asked for: protocols=[{protocol}]."
                )
            return read_url(name)
        if self.url:
            parts = unquote(name).replace("\\", "/").split("/")
            if ".." in parts or parts[0] == "":
                raise ValueError(f"{name!r} leads out of {shown(self.root)!r}.")
            return read_url(f"{self.root}/{name}")
        real = os.path.realpath(Path(self.root) / name)
        if not self.allow_outside and not Path(real).is_relative_to(self.root):
            raise ValueError(
                f"{name!r} leads out of the folder {self.root!r}. Name pictures below it, or set "
                "allow_outside=true if you trust whoever wrote these lines."
            )
        return read_file(real, shown_as=name)


def read_file(path: str | Path, *, shown_as: str | None = None) -> bytes:
    """Everything that a regular file holds; a pipe or device is not even opened.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is something else, or too large.
        OSError: it cannot be read.
    """
    name = str(path) if shown_as is None else shown_as
    missing = f"No picture {name!r}; expected a file."
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116  # a path that Path would not touch
        if stat.S_ISDIR(mode):
            raise FileNotFoundError(missing)
        _refuse_others(mode, name)
        # Between looking and opening it may have become a pipe, on which opening would wait.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(path, flags), "rb") as file:
            _refuse_others(os.fstat(file.fileno()).st_mode, name)
            return _no_more_than_allowed(file.read(MOST_BYTES + 1), name)
    except OSError as error:
        if error.errno not in ABSENT:
            raise
        raise FileNotFoundError(missing) from error


def read_url(url: str) -> bytes:
    """Everything that a URL gives, by fsspec.

    Raises:
        FileNotFoundError: it gives nothing.
        ValueError: it is chained or too large.
        OSError: it cannot be read.
        ImportError: fsspec needs another package for this kind of URL.
    """
    import fsspec

    if "::" in url:  # fsspec would open a file inside another, a local one too
        raise ValueError(f"{shown(url)!r} is a chain of URLs; expected a single one.")
    try:
        with fsspec.open(url, "rb") as file:
            return _no_more_than_allowed(file.read(MOST_BYTES + 1), shown(url))
    except ImportError:
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(f"No picture {shown(url)!r}; expected a file.") from error
    except _TooLargeError as error:
        raise ValueError(str(error)) from error
    except Exception as error:  # every file system has its own
        raise OSError(f"{shown(url)!r} cannot be read: {type(error).__name__}: {error}") from error


def protocol_of(url: str) -> str:
    """What stands before ``://``, in lower case."""
    return url.partition("://")[0].lower()


def shown(url: str) -> str:
    """A URL without what may be secret in it: user, password and query."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class _TooLargeError(ValueError):
    """Told apart from the errors of file systems."""


def _no_more_than_allowed(content: bytes, name: str) -> bytes:
    if len(content) > MOST_BYTES:
        raise _TooLargeError(
            f"{name!r} is larger than {MOST_BYTES // 2**20} MiB; make the picture smaller first."
        )
    return content


def _refuse_others(mode: int, name: str) -> None:
    if not stat.S_ISREG(mode):
        raise ValueError(f"{name!r} is a pipe, a socket or a device; expected a file.")
