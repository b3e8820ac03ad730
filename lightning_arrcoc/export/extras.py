"""Packages that a format needs beside ours, and what they say that nobody needs to hear."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec


def require(extra: str, *packages: str) -> None:
    """See that packages are installed.

    Args:
        extra: of ours that brings them.
        packages: by the names they are imported by.

    Raises:
        ImportError: one is missing.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"This format needs {', '.join(missing)}, which is not installed. Run: pip install "
            f'"lightning-arrcoc[{extra}]"'
        )


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Within it these loggers, and those below them, tell of errors alone."""
    known = [logging.getLogger(name) for name in loggers]
    known += [
        logger
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger) and name.startswith(tuple(f"{x}." for x in loggers))
    ]
    before = [logger.level for logger in known]
    for logger in known:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(known, before, strict=True):
            logger.setLevel(level)
