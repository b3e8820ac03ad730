"""Weights of the checkpoints that were used last, on the CPU."""

from __future__ import annotations

from collections import OrderedDict

from lightning_arrcoc.compare.errors import SwapError
from lightning_arrcoc.compare.reading import FileStamp, Weights
from lightning_arrcoc.memory.readings import MIB


class WeightStore:
    """Least recently used go first; bounded by count and by bytes.

    Not for several threads at once: who uses it holds the device.

    Args:
        most: how many are kept, 1 or more.
        most_bytes: how much all of them together may take.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self.most, self.most_bytes = most, most_bytes
        self._kept: OrderedDict[str, Weights] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def bytes(self) -> int:
        """What is taken now."""
        return sum(weights.bytes for weights in self._kept.values())

    @property
    def names(self) -> list[str]:
        """What is kept; what was used last stands last."""
        return list(self._kept)

    def get(self, name: str, stamp: FileStamp) -> Weights | None:
        """What was read from the file as it is now; what was read before that is forgotten."""
        weights = self._kept.get(name)
        if weights is None:
            return None
        if weights.stamp != stamp:
            self.drop(name)
            return None
        self._kept.move_to_end(name)
        return weights

    def make_room(self, name: str, needed: int) -> None:
        """Forget as much as must be before something of so many bytes is read.

        Raises:
            SwapError: it alone is too large.
        """
        if needed > self.most_bytes:
            raise SwapError(
                f"{name!r} has {needed / MIB:.1f} MiB of weights; expected at most "
                f"{self.most_bytes / MIB:.1f} MiB. Raise max_cache_mb."
            )
        self.drop(name)
        while self._kept and (len(self) >= self.most or self.bytes + needed > self.most_bytes):
            self._kept.popitem(last=False)

    def put(self, name: str, weights: Weights) -> None:
        """Keep what there is room for."""
        self.make_room(name, weights.bytes)
        self._kept[name] = weights

    def drop(self, name: str) -> None:
        """Forget it, if it is there."""
        self._kept.pop(name, None)
