"""A leak, with all there is to say about it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from typing import NamedTuple

from torch import Tensor

from lightning_arrcoc.memory.readings import MIB
from lightning_arrcoc.memory.staircase import Growth, Staircase
from lightning_arrcoc.memory.tensors import Census, Grown, census, copies, grown


class Leak(NamedTuple):
    """What is known of it.

    Attributes:
        bytes_per_step: by which memory grows.
        window: steps over which it was seen to.
        steps_left: until the device is full, at this rate; None where its size is unknown.
        since: the step from which tensors were counted.
        grown: tensors that became more.
        copies: how many times the model's parameters are alive, gradients and states included.
        usual_copies: as many when the watch began.
    """

    bytes_per_step: float
    window: int
    steps_left: int | None
    since: int
    grown: list[Grown]
    copies: int
    usual_copies: int

    def __str__(self) -> str:
        words = [
            f"Memory leak: {self.bytes_per_step / MIB:.2f} MiB a step, over {self.window} steps"
        ]
        if self.steps_left is not None:
            words[0] += f"; it runs out in about {self.steps_left:,}"
        if self.grown:
            words.append(f"Since step {self.since} there are {'; '.join(map(str, self.grown))}")
        else:
            words.append("No tensor became more: something else in this process grows")
        if self.copies > self.usual_copies:
            words.append(
                f"{self.copies} copies of the model's parameters are alive, "
                f"{self.usual_copies} were"
            )
        return ". ".join(words) + "."


class LeakWatch:
    """Looks for a staircase in the readings, and at the tensors once there is one.

    Args:
        window: steps that are looked at together.
        warm_up: first steps that are not; then tensors are counted for the first time.
    """

    def __init__(self, window: int, warm_up: int = 5) -> None:
        self._staircase = Staircase(window, warm_up)
        self._left = warm_up
        self._before: Census = {}
        self._usual_copies = 0
        self._since = 0
        self._level = 0  # bytes when the watch began
        self._named = 0.0  # bytes of growth that were told of

    def step(
        self,
        step: int,
        allocated: int,
        read: Callable[[], int],
        parameters: Callable[[], Iterable[Tensor]],
        capacity: int | None,
    ) -> Leak | None:
        """Take the reading of a step.

        Args:
            step: its number.
            allocated: bytes, at the same point of each step.
            read: the same once more.
            parameters: the model's.
            capacity: bytes that may be taken in all.

        Returns:
            A leak that was not told of yet, or has doubled since.
        """
        growth = self._staircase.add(allocated)
        self._left -= 1
        if self._left == 0:
            self._before, self._usual_copies = census(), copies(parameters())
            self._since, self._level = step, allocated
        if growth is None:
            return None
        gc.collect()
        kept = read()
        if allocated - kept > growth.bytes_per_step * growth.steps / 2:
            self._staircase.restart()  # cycles that nobody had collected yet
            return None
        return self._new(growth, kept, parameters, capacity)

    def _new(
        self,
        growth: Growth,
        allocated: int,
        parameters: Callable[[], Iterable[Tensor]],
        capacity: int | None,
    ) -> Leak | None:
        risen = allocated - self._level
        if risen < 2 * self._named:
            self._staircase.restart()  # looks again a window later
            return None
        self._named = float(risen)
        left: int | None = None
        if capacity is not None:
            left = max(0, int((capacity - allocated) / growth.bytes_per_step))
        return Leak(
            growth.bytes_per_step, growth.steps, left, self._since, grown(self._before),
            copies(parameters()), self._usual_copies,
        )  # fmt: skip
