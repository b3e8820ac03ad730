"""Memory between two pieces of inference."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import torch


@contextmanager
def free_between() -> Iterator[SimpleNamespace]:
    """Inference whose tensors are gone when it ends: for what stands between two large pieces.

    Inside is `torch.inference_mode`. At the end first the references are dropped, then cycles are
    collected, and only then is the cache of the device emptied: the other way round nothing would
    come free. What is dropped is what was put into the given scratch space; as a decorator, all
    that a function held besides what it returns. After an exception the frames it came through
    let go of their variables too.

    >>> with free_between() as scratch:
    ...     scratch.features = torch.zeros(3).exp()
    ...     answer = scratch.features.sum().item()
    >>> answer
    3.0
    >>> hasattr(scratch, "features")
    False

    Yields:
        A space whose attributes live until the end of the block. A variable of the caller's own
        keeps its tensor, and so does a result that lies on the device: move it to the CPU.
    """
    scratch = SimpleNamespace()
    try:
        with torch.inference_mode():
            yield scratch
    except BaseException as error:
        let_go(error)
        raise
    finally:
        vars(scratch).clear()
        empty_caches()


def let_go(error: BaseException) -> None:
    """Have an exception, and those it came from, keep no variable of the frames that it left.

    The lines of its traceback stay. Frames that still run are left alone.
    """
    known: set[int] = set()
    open_: list[BaseException | None] = [error]
    while open_:
        one = open_.pop()
        if one is not None and id(one) not in known:
            known.add(id(one))
            for frame, _ in traceback.walk_tb(one.__traceback__):
                with suppress(RuntimeError):  # it still runs
                    frame.clear()
                    _ = (
                        frame.f_locals
                    )  # before Python 3.13 a copy for who looked at it, renewed now
            open_ += [one.__cause__, one.__context__]


def empty_caches() -> None:
    """Collect cycles, then hand back what the allocators of the devices keep unused."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
