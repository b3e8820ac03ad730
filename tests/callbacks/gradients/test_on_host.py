"""Plain numbers say what the device would."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_arrcoc.callbacks.gradients.norms import GradientNorms
from lightning_arrcoc.callbacks.gradients.on_host import HostWindow
from lightning_arrcoc.callbacks.gradients.spikes import SpikeWindow

# Few and far apart, so that rounding decides nothing.
VALUES = st.sampled_from([0.0, 1.0, 1.0, 1.5, 2.0, 3.0, 50.0, 1e4, -7.0, math.nan, math.inf])


def same(one: float, other: float) -> bool:
    return one == pytest.approx(other, rel=1e-5, abs=1e-6, nan_ok=True)


@given(
    st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=30),
    st.integers(1, 6), st.sampled_from([0.5, 2.2, 6.3]), st.integers(0, 12), st.integers(0, 29),
)  # fmt: skip
def test_a_window_judges_as_on_the_device_and_hands_over_to_it(
    steps: list[tuple[float, float]], window: int, sigma: float, warmup: int, handover: int
) -> None:
    host, device = HostWindow(2, window, sigma, warmup), SpikeWindow(2, window, sigma, warmup)
    for number, values in enumerate(steps):
        if number == handover:  # a run that goes on on another kind of device
            state = host.state_dict()
            host.load_state_dict(device.state_dict())
            device.load_state_dict(state)
        ours, theirs = host.judge(values), device.judge(torch.tensor(values, dtype=torch.float64))
        assert ours.spike == theirs.spike.tolist()
        assert all(map(same, ours.limit, theirs.limit.tolist()))
        assert all(map(same, ours.median, theirs.median.tolist()))


def test_it_goes_on_from_its_state_bit_for_bit() -> None:
    values = torch.rand(30, generator=torch.Generator().manual_seed(0)).tolist()
    whole, half, resumed = (HostWindow(1, 8, 2.0) for _ in range(3))
    for value in values[:15]:
        assert whole.judge([value]).spike == half.judge([value]).spike
    resumed.load_state_dict(half.state_dict())
    for value in values[15:]:
        assert str(whole.judge([value])) == str(resumed.judge([value]))  # NaN equals NaN in words


@pytest.mark.parametrize("groups", [0, 1, ["*.bias"]])
@pytest.mark.parametrize("planted", [None, math.nan, math.inf])
def test_norms_are_those_of_the_device(groups: int | list[str], planted: float | None) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 70), nn.Linear(70, 3, dtype=torch.float64))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    if planted is not None:
        model[1].weight.grad[0, 0] = planted  # type: ignore[union-attr,index]
    norms = GradientNorms(dict(model.named_parameters()), groups)
    device, host = norms.measure(), norms.measure_on_host()
    assert device is not None
    assert host is not None
    assert same(host.total, device.total.item())
    assert all(map(same, host.groups, device.groups.tolist()))
    assert torch.equal(host.each, device.each) or planted is not None


def test_without_gradients_there_is_nothing_to_measure() -> None:
    model = nn.Linear(2, 2)
    assert GradientNorms(dict(model.named_parameters())).measure_on_host() is None
