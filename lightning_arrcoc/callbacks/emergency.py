"""Asking for a save from anywhere, and agreeing on it between ranks."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist


class Agreed(NamedTuple):
    """What all ranks do at this step because any of them wants it."""

    save: bool
    stop: bool
    failed: bool  # a save before
    end: bool = False  # because one of several was sent SIGTERM


class Requests:
    """What asks a run for a save: signals, a file, other callbacks.

    Args:
        signals: their names.
    """

    def __init__(self, signals: Sequence[str]) -> None:
        self.signals = Signals(signals, self.ask)
        self.agreement = Agreement()
        self.reason = ""  # of this rank's, until it is acted on
        self._asked: list[str] = []

    def ask(self, reason: str) -> None:
        """Safe in a signal's handler: acting on it is left to the next step boundary."""
        self._asked.append(reason)

    def agree(self, *, failed: bool) -> Agreed:
        """What any rank was asked since the last step, on all of them."""
        asked, self._asked = self._asked, []
        self.reason = ", ".join(asked) or self.reason
        wanted = bool(asked), self.signals.interrupted, failed, self.signals.terminated
        return Agreed(*self.agreement.exchange(wanted))

    def agreed_last(self) -> Agreed:
        """What is still under way between ranks when the steps are over, or was asked since."""
        before = self.agree(failed=False)
        since = self.agreement.last(len(Agreed._fields))
        return Agreed(*(a or b for a, b in zip(before, since, strict=True)))

    def stop(self) -> None:
        """Give everything back; harmless when repeated."""
        self.signals.restore()
        self.agreement.stop()


class Signals:
    """Notes signals while a run lasts; acting on them is left to the next step boundary.

    Handlers that were there before are called as well, so Lightning's own for SIGTERM and SLURM
    keep working. SIGINT alone is held back the first time; the second goes to whoever had it
    before, which is Python's KeyboardInterrupt. Of several processes SIGTERM is held back as well:
    Lightning's handler would wait for the others, who may be anywhere.
    """

    def __init__(self, names: Sequence[str], tell: Callable[[str], None]) -> None:
        self.names = names
        self.interrupted = False
        self.terminated = False
        self.stopped_at_once = False
        self._tell = tell
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        self.interrupted = self.terminated = self.stopped_at_once = False
        if threading.current_thread() is not threading.main_thread():
            return  # Python has handlers in the main thread only
        for name in self.names:
            number = getattr(signal, name, None)
            if number is None or number in self._before:
                continue
            before = signal.getsignal(number)
            if before == signal.SIG_IGN and number == signal.SIGINT:
                continue  # in the background of a shell
            self._before[number] = before
            signal.signal(number, self._handle)

    def restore(self) -> None:
        """Give back what was there before; harmless when repeated."""
        for number, before in self._before.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, before)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        before = self._before.get(number)
        if number == signal.SIGINT:
            if not self.interrupted:
                self.interrupted = True
                self._tell("SIGINT")
                return
            self.stopped_at_once = True
        else:
            self._tell(signal.Signals(number).name)
        if number == signal.SIGTERM and has_others():
            self.terminated = True
            return
        if callable(before):
            before(number, frame)


def has_others() -> bool:
    """Whether this is one of several processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class Agreement:
    """What one rank asks for reaches all of them at the same step.

    Alone, at once. With others one step later: a few bytes travel between the CPUs by gloo while
    the step is computed, so nothing waits and no device is synchronised.
    """

    def __init__(self) -> None:
        self._group: Any = None
        self._sent: tuple[Any, torch.Tensor] | None = None

    def start(self) -> None:
        """A collective of its own: for all ranks, at the start of a run."""
        if has_others():
            self._group = dist.new_group(backend="gloo")

    def exchange(self, wanted: Sequence[bool]) -> list[bool]:
        """What any rank wanted: now, or when there are others, a call ago."""
        if self._group is None:
            return list(wanted)
        found = self.last(len(wanted))
        words = torch.tensor([int(word) for word in wanted], dtype=torch.int32)
        work = dist.all_reduce(words, dist.ReduceOp.MAX, group=self._group, async_op=True)
        self._sent = work, words
        return found

    def gather(self, mine: Any) -> dict[str, Any]:
        """Rank -> its value, on all ranks: for moments that all of them reach."""
        if self._group is None:
            return {"0": mine}
        found: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(found, mine, group=self._group)
        return {str(rank): value for rank, value in enumerate(found)}

    def last(self, count: int) -> list[bool]:
        """What is still under way."""
        if self._sent is None:
            return [False] * count
        (work, words), self._sent = self._sent, None
        work.wait()
        return [bool(word) for word in words.tolist()]

    def stop(self) -> None:
        """Let the group go, without a word to the others."""
        group, self._group, self._sent = self._group, None, None
        if group is not None:
            with suppress(Exception):
                dist.destroy_process_group(group)
