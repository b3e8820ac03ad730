"""Settings of GradientMonitor, checked when it is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lightning_arrcoc.callbacks.arguments import check_choice, check_counts, is_number
from lightning_arrcoc.callbacks.gradients.consequences import Consequences

POLICIES = ("log", "skip", "stop")
WATCHED = (None, "gradients", "parameters", "all")


class Settings(NamedTuple):
    """As `GradientMonitor` describes them."""

    consequences: Consequences
    sigma: float
    window: int
    warmup: int
    groups: int | tuple[str, ...]
    update_ratio_every_n_steps: int
    find_module: bool
    watch: str | None

    def check(self) -> None:
        """Raise ValueError where one is out of range."""
        for name, policy in self.consequences._asdict().items():
            if name != "patience":
                check_choice(name, policy, POLICIES)
        check_counts(1, patience=self.consequences.patience)
        check_counts(2, window=self.window)
        every = self.update_ratio_every_n_steps
        check_counts(0, warmup=self.warmup, update_ratio_every_n_steps=every)
        if not (is_number(self.sigma) and self.sigma > 0):
            raise ValueError(f"sigma={self.sigma!r}; expected a number above 0.")
        check_choice("watch", self.watch, WATCHED)


def checked_groups(groups: int | Sequence[str]) -> int | tuple[str, ...]:
    """A depth as it is, globs as a tuple.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(groups, int) and not isinstance(groups, bool):
        check_counts(0, groups=groups)
        return groups
    globs = list(groups) if isinstance(groups, Sequence) and not isinstance(groups, str) else [None]
    if not all(isinstance(glob, str) for glob in globs):
        raise ValueError(
            f"groups={groups!r}; expected how many parts of a name make a group, or a list of "
            "globs such as ['*.attention.*', 'head.*']."
        )
    return tuple(map(str, globs))
