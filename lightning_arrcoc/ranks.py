"""One loss over the batches of several processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class LossAmongRanks:
    """Weights each process's mean loss by what it is a mean of, as one process with all would.

    DDP averages gradients over processes, whether their batches hold as many questions or not, and
    a batch without any would dilute the others'. Numbers travel at the start and the end of a
    batch, which every process reaches, and never within a step, which one of them may repeat.

    Attributes:
        alone: whether there is one process only.
    """

    def __init__(self) -> None:
        self.alone = True
        self._share: float | Tensor = 1.0  # of this process in everything
        self._processes = 1
        self._losses: list[tuple[Tensor, int]] = []

    def begin(self, count: int, processes: int, device: torch.device) -> None:
        """For all processes, at the start of a batch.

        Args:
            count: of what this process's loss is a mean.
            processes: how many there are.
            device: where it is computed.
        """
        self.alone, self._processes = processes == 1, processes
        self._losses.clear()
        if not self.alone:
            whole = torch.tensor(float(count), device=device)
            dist.all_reduce(whole)
            self._share = count / whole.clamp(min=1)

    def weighted(self, loss: Tensor, count: int) -> Tensor:
        """The loss whose mean over processes is that of everything together.

        Args:
            loss: a mean over `count`.
            count: of the batch, or of one of its parts.
        """
        if self.alone:
            return loss
        self._losses.append((loss.detach(), count))
        return loss * (self._share * self._processes)

    def mean(self) -> Tensor:
        """For all processes, at the end of a batch: the mean loss of everything together."""
        of_parts = sum(loss * count for loss, count in self._losses)
        own = of_parts / max(1, sum(count for _, count in self._losses)) * self._share
        assert isinstance(own, Tensor)
        dist.all_reduce(own)
        return own
