"""What cannot be seen of memory on this machine, said once."""

from __future__ import annotations

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from lightning_arrcoc.memory.readings import Memory

_SAID: set[str] = set()


def say_unseen(memory: Memory) -> None:
    """Once for all callbacks and runs of a process."""
    missing = memory.unseen()
    if memory.capacity() is None:
        missing = [*missing, f"how much memory {memory.name} has (thresholds are not watched)"]
    for what in missing:
        if what not in _SAID:
            _SAID.add(what)
            rank_zero_info(f"Memory callbacks cannot see {what}.")
