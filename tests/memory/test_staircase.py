"""A planted leak is found within fifty steps, and a thousand clean steps give no alarm."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from lightning_arrcoc.memory.readings import GIB, MIB
from lightning_arrcoc.memory.staircase import Growth, Staircase


def found(readings: Iterator[float] | list[float] | np.ndarray) -> tuple[int, Growth] | None:
    """The step of the first alarm, counted from 1."""
    staircase = Staircase()
    for step, reading in enumerate(readings, 1):
        growth = staircase.add(int(reading))
        if growth is not None:
            return step, growth
    return None


STEPS = np.arange(1000)
NOISE = np.random.default_rng(0).normal(0, MIB, 1000)


def test_a_mebibyte_a_step_is_found_within_fifty_steps_and_measured() -> None:
    alarm = found([4 * GIB + step * MIB for step in range(50)])
    assert alarm is not None
    step, growth = alarm
    assert step <= 50
    assert growth.bytes_per_step == pytest.approx(MIB)


@pytest.mark.parametrize("seed", range(20))
def test_noise_of_twice_that_does_not_hide_it(seed: int) -> None:
    noise = np.random.default_rng(seed).normal(0, 2 * MIB, 50)
    alarm = found(4 * GIB + np.arange(50) * MIB + noise)
    assert alarm is not None
    assert alarm[1].bytes_per_step == pytest.approx(MIB, rel=0.15)


def test_a_leak_every_few_steps_is_a_staircase_too() -> None:
    alarm = found([4 * GIB + step // 5 * 5 * MIB for step in range(50)])
    assert alarm is not None
    assert alarm[1].bytes_per_step == pytest.approx(MIB, rel=0.05)


def test_a_leak_that_begins_late_is_found_within_fifty_steps_of_its_start() -> None:
    alarm = found([4 * GIB + max(0, step - 500) * MIB for step in range(600)])
    assert alarm is not None
    assert 500 < alarm[0] <= 550


CLEAN = {
    "level": 0 * STEPS,
    "noise": NOISE,
    "heavy noise": 100 * NOISE,
    "validation every fifty steps": np.where(STEPS % 50 == 0, 300 * MIB, 0),
    "batches that swing": 200 * MIB * np.sin(STEPS / 7),
    "a buffer made late": np.where(STEPS > 300, 500 * MIB, 0),
    "two buffers made late": np.where(STEPS > 300, 500 * MIB, 0) + 300 * MIB * (STEPS > 312),
    "a warm-up that comes to rest": 500 * MIB * (1 - np.exp(-STEPS / 2)),
    "less than there is to tell": STEPS * 0.1 * MIB,
    "a leak that ended": -STEPS * MIB,
}


@pytest.mark.parametrize("name", CLEAN)
def test_a_thousand_clean_steps_give_no_alarm(name: str) -> None:
    assert found(8 * GIB + CLEAN[name]) is None


@pytest.mark.parametrize("seed", range(100))
def test_no_noise_gives_an_alarm(seed: int) -> None:
    generator = np.random.default_rng(seed)
    kind = generator.choice(["normal", "uniform", "lognormal", "levels"])
    noise = {
        "normal": lambda: generator.normal(0, 50, 1000),
        "uniform": lambda: generator.uniform(0, 300, 1000),
        "lognormal": lambda: generator.lognormal(2, 1.5, 1000),
        "levels": lambda: generator.choice([0, 20, 64, 500], 1000),
    }[str(kind)]()
    assert found(8 * GIB + MIB * noise) is None


def test_the_first_steps_are_not_looked_at() -> None:
    assert found([min(step, 4) * GIB for step in range(200)]) is None


def test_after_a_restart_it_takes_a_window_again() -> None:
    staircase = Staircase(window=20, warm_up=0)
    alarms = [staircase.add(step * MIB) is not None for step in range(40)]
    assert alarms.index(True) == 19
    staircase.restart()
    alarms = [staircase.add(step * MIB) is not None for step in range(40, 80)]
    assert alarms.index(True) == 19
