"""What counts as a spike, worked by hand."""

from __future__ import annotations

import torch

from lightning_arrcoc.callbacks.gradients.spikes import SpikeWindow


def one(window: SpikeWindow, value: float) -> bool:
    return bool(window.judge(torch.tensor([value])).spike)


def filled(*values: float, sigma: float = 2.0, warmup: int = 0) -> SpikeWindow:
    window = SpikeWindow(1, len(values), sigma, warmup)
    for value in values:
        assert not one(window, value)
    return window


def test_beyond_so_many_deviations_is_a_spike() -> None:
    # mean 2, deviation 1: the limit is 4
    assert not one(filled(1, 3, 1, 3), 3.99)
    assert one(filled(1, 3, 1, 3), 4.01)
    judged = filled(1, 3, 1, 3).judge(torch.tensor([4.01]))
    assert float(judged.limit) == 4.0
    assert float(judged.median) == 1.0  # the lower of two


def test_the_smallest_ripple_of_a_flat_curve_is_none() -> None:
    assert not one(filled(10, 10, 10, 10), 10.9)  # 5 % of 10, twice
    assert one(filled(10, 10, 10, 10), 11.1)


def test_a_fall_is_no_spike() -> None:
    assert not one(filled(1, 3, 1, 3), -100.0)


def test_nothing_is_judged_before_the_window_is_full_and_the_warmup_over() -> None:
    assert not one(SpikeWindow(1, 4, 2.0), 1e9)
    window = filled(1, 3, 1, 3, warmup=6)
    assert not one(window, 1e9)
    assert window.values[0, -1] == 1e9  # learnt from as it is
    assert not one(window, 1.0)
    assert one(window, 1e12)


def test_a_spike_alone_hardly_widens_the_window_and_a_level_is_learnt() -> None:
    window = filled(*[1.0, 3.0] * 8, sigma=6.0)
    assert one(window, 1000.0)
    assert one(window, 20.0)
    seen = [one(window, 1000.0) for _ in range(16)]
    assert seen[0]
    assert not seen[-1]


def test_what_is_not_finite_is_not_remembered() -> None:
    window = filled(1, 3, 1, 3)
    before = window.values.clone()
    for value in (float("nan"), float("inf"), -float("inf")):
        assert not one(window, value)
    assert torch.equal(window.values, before)


def test_curves_do_not_disturb_each_other() -> None:
    window = SpikeWindow(2, 2, 2.0)
    for value in (1.0, 1.0):
        window.judge(torch.tensor([value, float("nan")]))
    assert window.judge(torch.tensor([5.0, 5.0])).spike.tolist() == [True, False]


def test_it_goes_on_from_its_state_bit_for_bit() -> None:
    torch.manual_seed(0)
    values = torch.rand(30)
    whole, half = SpikeWindow(1, 8, 2.0), SpikeWindow(1, 8, 2.0)
    for value in values[:15]:
        whole.judge(value[None])
        half.judge(value[None])
    resumed = SpikeWindow(1, 8, 2.0)
    resumed.load_state_dict(half.state_dict())
    for value in values[15:]:
        one_, other = whole.judge(value[None]), resumed.judge(value[None])
        assert all(torch.equal(a, b) for a, b in zip(one_, other, strict=True))
