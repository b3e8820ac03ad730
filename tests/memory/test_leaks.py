"""A leak is told with all that is known, once, and again when it has doubled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_arrcoc.memory.leaks import Leak, LeakWatch
from lightning_arrcoc.memory.readings import GIB, MIB


def watch(
    reading: Callable[[int], int], steps: int, *, capacity: int | None = GIB,
    keep: Callable[[int], Any] = lambda step: None,
) -> list[tuple[int, Leak]]:  # fmt: skip
    found, leaks, module, kept = [], LeakWatch(40), nn.Linear(301, 7), []
    for step in range(1, steps + 1):
        kept.append(keep(step))
        leak = leaks.step(
            step, reading(step), lambda step=step: reading(step), module.parameters, capacity
        )
        if leak is not None:
            found.append((step, leak))
    return found


def test_a_leak_is_told_with_rate_time_left_and_tensors() -> None:
    ((step, leak),) = watch(
        lambda step: 100 * MIB + step * MIB, 50, keep=lambda step: torch.zeros(9, 31)
    )
    assert step <= 50
    assert leak.bytes_per_step == MIB
    assert leak.steps_left == 1024 - 100 - step
    assert leak.grown[0].kind.shape == (9, 31)
    assert leak.grown[0].number == step - 5
    text = str(leak)
    assert text.startswith("Memory leak: 1.00 MiB a step, over 40 steps; it runs out in about 879")
    assert "Since step 5 there are 40 more of (9, 31) float32 on cpu" in text


def test_copies_of_the_parameters_are_told() -> None:
    class Copies:
        made = 0

        def __call__(self, step: int) -> list[Tensor]:
            return [torch.zeros(7, 301), torch.zeros(7)] if step % 10 == 0 else []

    ((_, leak),) = watch(lambda step: step * MIB, 50, keep=Copies())
    assert (leak.usual_copies, leak.copies) == (1, 5)
    assert "5 copies of the model's parameters are alive, 1 were" in str(leak)


def test_it_is_told_again_when_it_has_doubled() -> None:
    steps = [step for step, _ in watch(lambda step: step * MIB, 200)]
    assert len(steps) == 3
    assert steps[1] - 5 >= 2 * (steps[0] - 5)
    assert steps[2] - 5 >= 2 * (steps[1] - 5)


def test_cycles_that_a_collection_ends_are_no_leak() -> None:
    cycles: list[Any] = []

    class Cycle:
        def __init__(self) -> None:
            self.me = self
            cycles.append(None)

        def __del__(self) -> None:
            cycles.pop()

    def keep(step: int) -> None:
        Cycle()

    import gc

    gc.disable()
    try:
        assert watch(lambda step: len(cycles) * MIB, 150, keep=keep) == []
    finally:
        gc.enable()


def test_growth_outside_of_tensors_is_told_as_such() -> None:
    leak = Leak(MIB, 40, None, 5, [], 1, 1)
    assert str(leak) == (
        "Memory leak: 1.00 MiB a step, over 40 steps. No tensor became more: something else in "
        "this process grows."
    )


def test_where_the_size_is_unknown_the_time_left_is_too() -> None:
    ((_, leak),) = watch(lambda step: step * MIB, 50, capacity=None)
    assert leak.steps_left is None
