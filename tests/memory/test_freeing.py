"""Nothing is kept between two pieces of inference, and the cache is emptied last."""

from __future__ import annotations

import subprocess
import sys
import traceback
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from lightning_arrcoc.memory import free_between, freeing
from lightning_arrcoc.memory.freeing import let_go


@pytest.fixture
def emptied(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For every emptying of the caches: whether the watched tensor was gone by then."""
    found: list[bool] = []
    real = freeing.empty_caches

    def watch() -> None:
        real()
        found.append(watched[0]() is None)

    monkeypatch.setattr(freeing, "empty_caches", watch)
    return found


watched: list[weakref.ref[torch.Tensor]] = []


def tensor() -> torch.Tensor:
    made = torch.zeros(3)
    watched[:] = [weakref.ref(made)]
    return made


def test_what_lies_in_the_scratch_space_is_gone_before_the_cache_is_emptied(
    emptied: list[bool],
) -> None:
    with free_between() as scratch:
        scratch.features = tensor()
        result = scratch.features.exp().sum().item()
    assert result == 3.0
    assert emptied == [True]


def test_a_tensor_of_the_caller_s_own_stays(emptied: list[bool]) -> None:
    with free_between():
        mine = tensor()
    assert emptied == [False]
    assert mine is not None


def test_as_a_decorator_it_keeps_nothing_but_what_is_returned(emptied: list[bool]) -> None:
    @free_between()
    def answer() -> float:
        features = tensor()
        cycle: list[Any] = [features]
        cycle.append(cycle)
        return float(features.sum())

    assert answer() == 0.0
    assert emptied == [True]


def test_no_graph_is_made() -> None:
    layer = nn.Linear(2, 2)
    with free_between():
        assert layer(torch.zeros(1, 2)).is_inference()
    assert not torch.is_inference_mode_enabled()


def test_an_exception_keeps_no_tensor(emptied: list[bool]) -> None:
    def forward() -> None:
        activation = tensor()
        raise RuntimeError(f"of {len(activation)}")

    with pytest.raises(RuntimeError, match="of 3") as caught, free_between():
        forward()
    assert emptied == [True]
    assert caught.traceback[-1].name == "forward"


def test_letting_go_reaches_the_exceptions_that_came_before() -> None:
    def first() -> None:
        activation = tensor()
        raise ValueError(len(activation))

    def second() -> None:
        try:
            first()
        except ValueError as error:
            raise RuntimeError("second") from error

    try:
        second()
    except RuntimeError as error:
        assert watched[0]() is not None
        let_go(error)
    assert watched[0]() is None


def test_letting_go_reaches_frames_that_somebody_looked_into() -> None:
    def forward() -> None:
        activation = tensor()
        raise RuntimeError(len(activation))

    try:
        forward()
    except RuntimeError as error:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        looked_at = ["activation" in frame.f_locals for frame in frames]
        let_go(error)
    assert any(looked_at)
    assert watched[0]() is None


def test_it_comes_without_lightning() -> None:
    code = (
        "import sys; from lightning_arrcoc.memory import free_between; "
        "print(sorted({'lightning', 'transformers', 'kornia', 'psutil'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.gpu
def test_on_a_gpu_the_memory_really_comes_back() -> None:
    before = torch.cuda.memory_reserved()
    with free_between() as scratch:
        scratch.features = torch.empty(1 << 26, device="cuda")
    assert torch.cuda.memory_reserved() <= before
