"""Thresholds of memory that are passed on the way up."""

from __future__ import annotations

from lightning_arrcoc.memory.readings import GIB


class Levels:
    """Tells of each threshold once, until memory has come back below the lowest.

    Args:
        warning, critical: shares of the whole up to 1, or GiB above; None where there is none.

    Raises:
        ValueError: they are out of order, of different sorts, or not above 0.
    """

    def __init__(self, warning: float | None, critical: float | None) -> None:
        given = {"warning": warning, "critical": critical}
        self.thresholds = {name: value for name, value in given.items() if value is not None}
        for name, value in self.thresholds.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"{name}={value!r}; expected a share up to 1, or GiB above 1.")
        if warning is not None and critical is not None:
            if (warning > 1) != (critical > 1):
                raise ValueError(
                    f"warning={warning}, critical={critical}: one is a share and one in GiB; "
                    "expected two of a sort."
                )
            if warning >= critical:
                raise ValueError(
                    f"warning={warning}, critical={critical}; expected warning below critical."
                )
        self._passed: set[str] = set()

    def too_large(self, capacity: int | None) -> str | None:
        """The name of a threshold that cannot be reached."""
        for name, value in self.thresholds.items():
            if value > 1 and capacity is not None and value * GIB > capacity:
                return name
        return None

    def passed(self, used: int, capacity: int) -> str | None:
        """The highest threshold that `used` bytes of `capacity` have newly passed."""
        reached = [
            name
            for name, value in self.thresholds.items()
            if used >= value * (GIB if value > 1 else capacity)
        ]
        if not reached:
            self._passed.clear()
        if not reached or reached[-1] in self._passed:
            return None
        self._passed.update(reached)
        return reached[-1]
