"""Which sample comes when: a function of seed, epoch and place, whatever went before."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sized
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from lightning_arrcoc.data.sample import Sample, Source


class Place(NamedTuple):
    """Where a run stands, in batches of one process.

    Attributes:
        epoch: counted from 0.
        batch: of this epoch, the next to be taken.
        stop: the first that this epoch leaves out; None where it takes all.
    """

    epoch: int
    batch: int = 0
    stop: int | None = None


class Draw(NamedTuple):
    """A sample to be fetched, and the epoch that fetches it."""

    sample: int
    epoch: int


class EpochOrder(DistributedSampler[Draw]):
    """A new order every epoch, from wherever the run stands.

    Samples are dealt out to processes as torch's `DistributedSampler` does, of which this is one,
    so that Lightning leaves it in place: the same order in all of them, its beginning repeated
    until each has as many.

    Args:
        source: whose samples are ordered.
        place: asked at the beginning of each pass.
        batch_size: samples that `place` counts as one.
        seed: of the order; the same in every process.
        num_replicas, rank: processes that share the source, and which one this is.
    """

    def __init__(
        self,
        source: Sized,
        place: Callable[[], Place],
        *,
        batch_size: int,
        seed: int,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        super().__init__(source, num_replicas, rank, seed=seed)  # type: ignore[arg-type]  # only len
        self.place = place
        self.batch_size = batch_size
        self.count = len(source)

    def __iter__(self) -> Iterator[Draw]:
        place = self.place()
        order = np.random.default_rng([self.seed, place.epoch]).permutation(self.count)
        own = np.resize(order, self.total_size)[self.rank :: self.num_replicas]
        first = place.batch * self.batch_size
        last = len(own) if place.stop is None else place.stop * self.batch_size
        return (Draw(sample, place.epoch) for sample in own[first:last].tolist())


class EvenOrder(DistributedSampler[int]):
    """Samples in their own order, dealt out to processes, as many to each.

    So all of them take as many steps, which a sharded model needs. Where samples do not go round,
    the last ones repeat the first, and `EvenLoader` says that these count for nothing.

    Args:
        source: whose samples are dealt out.
        num_replicas, rank: processes that share the source, and which one this is.
    """

    def __init__(self, source: Sized, num_replicas: int, rank: int) -> None:
        super().__init__(source, num_replicas, rank, shuffle=False)  # type: ignore[arg-type]  # only len
        self.own = len(range(rank, len(source), num_replicas))


class EvenLoader(DataLoader[Any]):
    """A loader over an `EvenOrder` whose batches tell under `real` how many of their samples count.

    Those come first.
    """

    def __iter__(self) -> Any:
        left = getattr(self.sampler, "own", len(self.sampler))  # type: ignore[arg-type]  # it has one
        for batch in super().__iter__():
            size = len(batch["answers"])
            batch["real"] = max(0, min(size, left))
            left -= size
            yield batch


class Drawn(Dataset[Sample]):
    """A source whose randomness is a function of seed, epoch and index.

    What it draws from the global generators of Python, NumPy and torch on the CPU is the same in
    whichever process, and leaves no trace there.

    Args:
        source: what is drawn from.
        seed: other seeds give other augmentations.
    """

    def __init__(self, source: Source, seed: int) -> None:
        self.source, self.seed = source, seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, draw: Draw | int) -> Sample:
        index, epoch = draw if isinstance(draw, Draw) else (draw, 0)
        words = np.random.SeedSequence([self.seed, epoch, index]).generate_state(3)
        with isolate_rng(include_cuda=False):
            random.seed(int(words[0]))
            np.random.seed(int(words[1]))
            torch.default_generator.manual_seed(int(words[2]))
            return self.source[index]


class EpochLoader(DataLoader[Any]):
    """A loader over an `EpochOrder` that holds no position of its own.

    Its state says what a batch was, so that a run resumed with other batches is told.
    """

    def __iter__(self) -> Any:
        # Lightning makes iterators before it knows where the run stands; only the first batch may
        # ask, and start workers.
        yield from super().__iter__()

    def state_dict(self) -> dict[str, int]:
        return {"batch_size": int(self.batch_size or 1), "processes": self._processes}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        present = self.state_dict()
        if state_dict != present:
            rank_zero_warn(
                f"The checkpoint was made with {_in_words(state_dict)}, this run has "
                f"{_in_words(present)}: the rest of this epoch leaves out samples or repeats some. "
                "Resume with the same numbers to end with the same weights."
            )

    @property
    def _processes(self) -> int:
        return int(getattr(self.sampler, "num_replicas", 1))


def _in_words(state: dict[str, int]) -> str:
    return " and ".join(f"{name}={value}" for name, value in sorted(state.items()))
