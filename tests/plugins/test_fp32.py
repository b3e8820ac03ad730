"""Stretches of a step in fp32."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_arrcoc.plugins import full_precision
from lightning_arrcoc.plugins.fp32 import fp32_stretch, running


@pytest.fixture
def plugin() -> Iterator[None]:
    """As if a Trainer had set one up on a CPU."""
    running.plugins[1] = "cpu"
    yield
    running.plugins.pop(1)
    assert running.depth == 0
    assert torch.get_default_dtype() is torch.float32


LOGITS = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.bfloat16)
LABELS = torch.tensor([1])


def test_without_the_plugin_nothing_changes() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16), full_precision():
        assert torch.is_autocast_enabled("cpu")
        assert F.cross_entropy(LOGITS.clone(), LABELS, reduction="none").shape == (1,)
    with full_precision():
        assert (LOGITS + 1).dtype is torch.bfloat16


@full_precision()
def interrupted() -> None:
    assert not torch.is_autocast_enabled("cpu")
    raise KeyboardInterrupt


@pytest.mark.usefixtures("plugin")
def test_autocast_is_off_and_on_again_also_after_an_exception() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert torch.is_autocast_enabled("cpu")


@pytest.mark.usefixtures("plugin")
def test_a_loss_of_16_bit_logits_is_the_one_of_fp32() -> None:
    with full_precision():
        loss = F.cross_entropy(LOGITS, LABELS)
    assert loss.dtype is torch.float32
    assert loss == F.cross_entropy(LOGITS.float(), LABELS)
    assert F.cross_entropy(LOGITS, LABELS).float() != loss, "bf16 would have done as well"


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("layer", [nn.Linear(3, 3), nn.LayerNorm(3), nn.GELU()], ids=str)
def test_a_lowered_module_computes_in_fp32_inside(layer: nn.Module) -> None:
    layer = layer.to(torch.bfloat16)
    with full_precision():
        assert layer(LOGITS).dtype is torch.float32


@pytest.mark.usefixtures("plugin")
def test_writing_into_a_tensor_writes_into_that_one() -> None:
    x = torch.zeros(4, dtype=torch.bfloat16)
    with full_precision():
        x += 1
        x.mul_(2)
        x[0] = 7
        x[1:3].add_(1)
        x.view(2, 2)[1, 1] = 5
        torch.add(x, 1, out=x)
        F.relu(x, inplace=True)
    assert x.dtype is torch.bfloat16
    assert x.tolist() == [8, 4, 4, 6]


@pytest.mark.usefixtures("plugin")
def test_what_is_asked_of_a_tensor_is_asked_of_itself() -> None:
    leaf = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    seen: list[torch.Tensor] = []
    with full_precision():
        leaf.register_hook(seen.append)
        assert leaf.dtype is torch.bfloat16
        assert leaf.is_leaf
        (given,) = torch.autograd.grad((leaf * 3).sum(), leaf)
        (leaf * 2).sum().backward()
        assert leaf.grad is not None
    assert given.tolist() == [3, 3]
    assert leaf.grad.tolist() == [2, 2]
    assert len(seen) == 2


@pytest.mark.usefixtures("plugin")
def test_new_tensors_are_fp32_where_the_step_makes_lower_ones() -> None:
    torch.set_default_dtype(torch.bfloat16)
    try:
        with full_precision():
            assert torch.zeros(1).dtype is torch.float32
        assert torch.zeros(1).dtype is torch.bfloat16
    finally:
        torch.set_default_dtype(torch.float32)


def test_only_the_outermost_stretch_is_a_border() -> None:
    with fp32_stretch("cpu") as outer, fp32_stretch("cpu") as inner:
        assert (outer, inner) == (True, False)


@pytest.mark.usefixtures("plugin")
def test_torch_compile_breaks_its_graph_there_and_comes_to_the_same() -> None:
    layer = nn.Linear(3, 3)

    def step(x: torch.Tensor) -> torch.Tensor:
        features = layer(x)
        with full_precision():
            return F.cross_entropy(features, LABELS)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = step(LOGITS)
        traced = torch.compile(step, backend="aot_eager")(LOGITS)
    assert expected.dtype is traced.dtype is torch.float32
    assert torch.equal(expected, traced)


@pytest.mark.usefixtures("plugin")
def test_a_backward_pass_that_recomputes_does_so_in_fp32() -> None:
    from torch.utils.checkpoint import checkpoint

    dtypes = []

    def part(x: torch.Tensor) -> torch.Tensor:
        with full_precision():
            dtypes.append((x * x).dtype)
            return x.exp().sum()

    x = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    checkpoint(part, x, use_reentrant=False).backward()
    assert dtypes == [torch.float32] * 2
