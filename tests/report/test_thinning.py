"""What is drawn of a long curve."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_arrcoc.report.run import Curve
from lightning_arrcoc.report.thinning import smooth, thin


def curve(values: list[float], steps: list[float] | None = None) -> Curve:
    return Curve(np.array(steps or range(len(values)), dtype=float), np.array(values))


def test_a_short_curve_stays_as_it_is() -> None:
    short = curve([3.0, 1.0, 2.0])
    assert thin(short, 0, 2, 2).values.tolist() == [3.0, 1.0, 2.0]


def test_one_spike_among_a_hundred_thousand_points_is_kept_with_its_step() -> None:
    values = np.zeros(100_000)
    values[54_321], values[77_777] = 9.0, -9.0
    thinned = thin(curve(list(values)), 0, 99_999, 100)
    assert len(thinned.values) <= 200
    assert thinned.steps[np.argmax(thinned.values)] == 54_321
    assert thinned.steps[np.argmin(thinned.values)] == 77_777


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=1, max_size=300),
    st.integers(1, 20),
)
def test_nothing_is_made_up_and_the_ends_are_those_of_the_whole(
    values: list[float], bins: int
) -> None:
    whole = curve(values)
    thinned = thin(whole, 0, len(values) - 1, bins)
    assert (np.diff(thinned.steps) >= 0).all()
    known = dict(zip(whole.steps, whole.values, strict=True))
    for step, value in zip(*thinned, strict=True):
        assert value == known[step] or np.isnan(known[step])
    if len(whole.finite.values):
        assert thinned.finite.values.max() == whole.finite.values.max()
        assert thinned.finite.values.min() == whole.finite.values.min()


def test_a_stretch_without_a_number_stays_a_gap() -> None:
    values = [1.0] * 100 + [np.nan] * 100 + [1.0] * 100
    thinned = thin(curve(values), 0, 299, 30)
    assert np.isnan(thinned.values).sum() == 10


def test_a_resumed_run_is_two_lines_and_not_one_that_goes_back() -> None:
    twice = curve([1.0, 2.0, 3.0, 4.0, 5.0], steps=[0, 1, 2, 1, 2])
    assert np.isnan(thin(twice, 0, 2, 50).values).tolist() == [False] * 3 + [True] + [False] * 2


def test_smoothing_halves_noise_and_keeps_the_level() -> None:
    noise = np.random.default_rng(0).normal(5.0, 1.0, 1000)
    smoothed = smooth(curve(list(noise)))
    assert smoothed is not None
    assert smoothed.values[0] == noise[0]  # its start is corrected
    assert abs(smoothed.values[-500:].mean() - 5) < 0.1
    assert smoothed.values[-500:].std() < 0.3


def test_a_short_curve_is_not_smoothed() -> None:
    assert smooth(curve([1.0] * 39)) is None


def test_smoothing_leaves_a_gap_where_values_are_none() -> None:
    smoothed = smooth(curve([1.0] * 50 + [np.nan] * 5 + [1.0] * 5))
    assert smoothed is not None
    assert np.isnan(smoothed.values).sum() == 5
    assert (smoothed.finite.values == 1).all()
