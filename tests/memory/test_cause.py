"""One sentence, of the likeliest cause."""

from __future__ import annotations

import pytest
import torch

from lightning_arrcoc.memory.cause import (
    Shortage,
    asked_and_free,
    is_out_of_memory,
    likely_cause,
)
from lightning_arrcoc.memory.readings import GIB, MIB
from lightning_arrcoc.memory.staircase import Growth

MESSAGE = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.15 GiB of "
    "which 512.00 MiB is free. Including non-PyTorch memory, this process has 78.00 GiB memory in "
    "use."
)
USUAL = Shortage(
    asked=GIB, free=GIB // 2, capacity=80 * GIB, allocated=78 * GIB, reserved=78 * GIB,
    others=0, phase="forward", module="encoder.layers.3", samples=8, usual_samples=8,
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, "The batch: its activations did not fit in the forward when it came to encoder.layer"),
        ({"phase": "backward", "module": None}, "did not fit in the backward; 78.00 GiB were held"),
        ({"others": 9 * GIB}, "Other processes hold 9.00 GiB of the device"),
        ({"reserved": 79 * GIB + GIB // 2}, "Fragmentation: 1.50 GiB of what torch holds"),
        ({"growth": Growth(MIB, 40)}, "A leak: memory grew by 1.00 MiB a step over the 40"),
        ({"phase": "optimizer step"}, "The optimizer: its state"),
        ({"samples": 20}, "The batch: it has 20 samples, where 8 are usual"),
        ({"asked": 9 * GIB}, "An activation of encoder.layers.3: it asked for 9.00 GiB in one"),
    ],
)
def test_each_cause_has_its_sentence(change: dict[str, object], says: str) -> None:
    sentence = likely_cause(USUAL._replace(**change))  # type: ignore[arg-type]
    assert says in sentence
    assert sentence.count(". ") == 0
    assert sentence.endswith(".")


def test_nothing_known_is_still_a_sentence() -> None:
    assert likely_cause(Shortage()) == "The batch: its activations did not fit in the forward."


def test_torch_s_message_tells_what_was_asked_and_free() -> None:
    assert asked_and_free(MESSAGE) == (int(2.5 * GIB), 512 * MIB)
    on_cpu = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes. Error"
    assert asked_and_free(on_cpu) == (4096, None)
    assert asked_and_free("nothing of the kind") == (None, None)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError(MESSAGE), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_is_for_lack_of_memory_is_known(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected
