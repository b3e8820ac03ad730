"""An optimizer that is kept from a step is as if the step had never been."""

from __future__ import annotations

import copy
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from lightning_arrcoc.callbacks.gradients.withholding import (
    loss_scale,
    release,
    scale_of_gradients,
    take_gradients,
    way_to_withhold,
    withhold_on_device,
)

FUSED = {
    "AdamW": lambda p: AdamW(p, fused=True),
    "AMSGrad": lambda p: AdamW(p, fused=True, amsgrad=True),
    "Adam": lambda p: Adam(p, fused=True),
    "SGD": lambda p: SGD(p, lr=0.1, fused=True),
    "SGD with momentum": lambda p: SGD(p, lr=0.1, momentum=0.9, fused=True),
}


def stepped(make: Any, steps: int = 1) -> tuple[nn.Parameter, Optimizer]:
    parameter = nn.Parameter(torch.ones(4))
    optimizer: Optimizer = make([parameter])
    for _ in range(steps):
        parameter.grad = torch.ones(4)
        optimizer.step()
    return parameter, optimizer


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b)


@pytest.mark.parametrize("name", FUSED)
def test_fused_kernels_heed_the_flag(name: str) -> None:
    """`found_inf` is what GradScaler sets; this fails when torch reads it no more."""
    parameter, optimizer = stepped(FUSED[name])
    assert way_to_withhold(optimizer, None, None, 1) == "device"
    weights, state = parameter.detach().clone(), copy.deepcopy(optimizer.state[parameter])
    parameter.grad = torch.full((4,), torch.nan)
    withhold_on_device(optimizer, torch.tensor(True))
    optimizer.step()
    assert torch.equal(parameter, weights)
    assert same(dict(optimizer.state[parameter]), dict(state))
    release(optimizer)
    optimizer.step()  # the control
    assert parameter.isnan().all()


def test_a_first_fused_step_of_momentum_is_left_to_the_host() -> None:
    parameter, optimizer = stepped(FUSED["SGD with momentum"], steps=0)
    assert way_to_withhold(optimizer, None, None, 1) == "host"
    parameter.grad = torch.full((4,), torch.nan)
    take_gradients(optimizer)
    optimizer.step()
    assert torch.equal(parameter, torch.ones(4))
    assert not optimizer.state


@pytest.mark.parametrize(
    "make",
    [
        lambda p: AdamW(p, fused=False),
        lambda p: SGD(p, lr=0.1),
        lambda p: torch.optim.RMSprop(p),
        lambda p: type("Mine", (AdamW,), {})(p, fused=True),
    ],
)
def test_others_are_left_to_the_host(make: Any) -> None:
    assert way_to_withhold(make([nn.Parameter(torch.ones(1))]), None, None, 1) == "host"


def test_what_has_no_gradient_is_not_even_decayed() -> None:
    parameter, optimizer = stepped(lambda p: AdamW(p, weight_decay=0.5))
    weights, state = parameter.detach().clone(), copy.deepcopy(optimizer.state[parameter])
    parameter.grad = torch.full((4,), torch.nan)
    take_gradients(optimizer)
    optimizer.step()
    assert torch.equal(parameter, weights)
    assert same(dict(optimizer.state[parameter]), dict(state))


def test_whether_gradients_carry_a_scale_is_read_from_the_scaler() -> None:
    """Private to GradScaler; this fails when it moves."""
    scaler = torch.amp.GradScaler(device="cpu", init_scale=8.0)
    parameter, optimizer = stepped(lambda p: SGD(p, lr=0.1))
    scaler.scale(parameter.sum()).backward()
    scale = scale_of_gradients(scaler, optimizer)
    assert scale is not None
    assert float(scale) == 8.0
    assert way_to_withhold(optimizer, scaler, scale, 1) == "scaler"
    scaler.unscale_(optimizer)
    assert scale_of_gradients(scaler, optimizer) is None
    assert way_to_withhold(optimizer, scaler, None, 1) == "host"
    scaler.step(optimizer)
    scaler.update()
    assert float(loss_scale(scaler) or 0) == 8.0
    assert scale_of_gradients(None, optimizer) is None


def test_lightning_still_says_when_loggers_want_numbers() -> None:
    """Private to the Trainer, and read by its own monitors."""
    assert pl.Trainer(logger=False, accelerator="cpu")._logger_connector.should_update_logs in (
        True,
        False,
    )
