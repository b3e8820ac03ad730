"""How many samples at a time: fewer after each failure, more again after a while."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from lightning_arrcoc.memory.splitting import Part, Reduction, split

Cut = Callable[[Any, int], Iterable[tuple[Any, float]]]


class Splitter:
    """Remembers what fits: halves when memory runs out, doubles after steps that went well.

    A doubling that fails is tried again only after twice as many steps.

    Args:
        reduction: how a batch's loss is made of its samples' (`splitting.split`).
        raise_after: steps without a failure before it doubles.
    """

    def __init__(self, reduction: Reduction, raise_after: int) -> None:
        self.reduction = reduction
        self.most: int | None = None  # samples at a time; None takes all
        self.patience = raise_after
        self._calm = 0
        self._has_risen = False

    def parts(self, batch: Any, cut: Cut | None = None, usual: int | None = None) -> list[Part]:
        """The batch as it is to be run; empty where it is run whole.

        Args:
            batch: of any structure.
            cut: the module's own way, ``cut(batch, most)``; None takes `splitting.split`.
            usual: samples that the loader puts in a batch.

        Raises:
            CannotSplitError: nobody can tell what its samples are.
        """
        found = [] if self.most is None else self._cut(batch, self.most, cut, usual)
        return found if len(found) > 1 else []

    def lower(self, batch: Any, cut: Cut | None = None, usual: int | None = None) -> bool:
        """Memory ran out; whether fewer samples at a time are left to try.

        Raises:
            CannotSplitError: nobody can tell what its samples are.
        """
        total = len(self._cut(batch, 1, cut, usual))
        self._calm = 0
        if self._has_risen:
            self.patience, self._has_risen = 2 * self.patience, False
        tried = total if self.most is None else min(self.most, total)
        if tried <= 1:
            return False
        self.most = (tried + 1) // 2
        return True

    def went_well(self, parts: int) -> bool:
        """A batch in so many parts fitted; whether more at a time are tried from now on."""
        self._calm += 1
        if self.most is None or self._calm < self.patience:
            return False
        self._calm, self._has_risen = 0, True
        self.most = None if parts <= 2 else 2 * self.most
        return True

    def state(self) -> dict[str, int | None]:
        return {"most": self.most, "calm": self._calm, "patience": self.patience}

    def restore(self, state: dict[str, int | None]) -> None:
        self.most = state["most"]
        self._calm, self.patience = int(state["calm"] or 0), int(state["patience"] or 1)

    def _cut(self, batch: Any, most: int, cut: Cut | None, usual: int | None) -> list[Part]:
        if cut is not None:
            return [Part(part, share) for part, share in cut(batch, most)]
        return split(batch, most, self.reduction, usual)
