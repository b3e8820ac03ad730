"""What can go wrong between checkpoints and those who ask; each has a class of its own."""

from __future__ import annotations

from lightning_arrcoc.plugins.manifest import DamagedCheckpointError


class CompareError(Exception):
    """The comparison could not be made.

    Its words name checkpoints as they were registered and hold no path: a page may show them.
    """


class UnknownCheckpointError(CompareError, LookupError):
    """Nothing is registered by this name."""


class MissingCheckpointError(CompareError, FileNotFoundError):
    """The file was deleted, or lies outside its folder now."""


class UnsoundCheckpointError(CompareError, DamagedCheckpointError):
    """The file is not what was saved, or nobody can tell."""


class OtherBackboneError(CompareError, ValueError):
    """The checkpoint was trained on another backbone, or is one."""


class SwapError(CompareError, ValueError):
    """The weights do not fit; nothing was changed."""


class LineFullError(CompareError, RuntimeError):
    """Too many are waiting for the device already."""


class LineTimeoutError(CompareError, TimeoutError):
    """The device did not become free in time."""


class StoppedError(CompareError):
    """Whoever asked does not want the answer any more."""
