"""The doctor times fairly, prefers the smaller setting within noise, and says what to type."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
import torch

from lightning_arrcoc.config import check_overrides
from lightning_arrcoc.data.datamodule import VqaDataModule
from lightning_arrcoc.data.sample import Sample, Turn
from lightning_arrcoc.doctor.loader import (
    Setting,
    Timing,
    candidates,
    choose,
    overrides,
    time_settings,
)

NONE, ONE, TWO = Setting(0, 2, False), Setting(1, 2, False), Setting(2, 2, False)


def timed(setting: Setting, *rates: float) -> Timing:
    return Timing(setting, list(rates), [0.1] * len(rates))


# ---------------------------------------------------------------------------------------- choosing


def test_the_fastest_is_chosen() -> None:
    assert choose([timed(NONE, 9, 10, 11), timed(ONE, 19, 20, 21), timed(TWO, 28, 30, 33)]) == TWO


def test_within_noise_the_smaller_one_is() -> None:
    """Its median is no worse than the slowest round of the fastest."""
    assert choose([timed(TWO, 20, 30, 31), timed(ONE, 19, 21, 22), timed(NONE, 1, 2, 3)]) == ONE
    assert choose([timed(TWO, 22, 30, 31), timed(ONE, 19, 21, 22)]) == TWO


def test_few_ready_batches_and_unpinned_memory_are_the_smaller_setting() -> None:
    small = Setting(1, 2, False)
    for larger in (Setting(1, 4, False), Setting(1, 2, True), Setting(2, 2, False)):
        assert choose([timed(larger, 10, 10), timed(small, 10, 10)]) == small


def test_no_worker_and_powers_of_two_are_tried_up_to_one_a_core() -> None:
    def workers(cores: int) -> list[int]:
        return [setting.num_workers for setting in candidates(cores, on_cuda=False)]

    assert workers(1) == workers(0) == [0, 1, 1]
    assert workers(6) == [0, 1, 1, 2, 2, 4, 4]
    assert workers(64) == [0, 1, 1, 2, 2, 4, 4, 8, 8]


def test_memory_is_pinned_on_cuda_alone() -> None:
    assert not any(setting.pin_memory for setting in candidates(4, on_cuda=False))
    assert {setting.pin_memory for setting in candidates(4, on_cuda=True)} == {False, True}


@pytest.mark.parametrize(
    ("setting", "on_cuda", "words"),
    [
        (NONE, False, ["data.num_workers=0"]),
        (Setting(2, 4, False), False, ["data.num_workers=2", "data.prefetch_factor=4"]),
        (
            Setting(2, 4, True), True,
            ["data.num_workers=2", "data.prefetch_factor=4", "data.pin_memory=true"],
        ),
        (Setting(0, 2, False), True, ["data.num_workers=0", "data.pin_memory=false"]),
    ],
)  # fmt: skip
def test_what_it_names_can_be_typed(setting: Setting, on_cuda: bool, words: list[str]) -> None:
    found = overrides(setting, on_cuda)
    assert found == words
    known = [word.lstrip("+") for word in check_overrides("fit", found)]
    assert known == words


# ------------------------------------------------------------------------------------------ timing


def encode(conversations: list[Any], **_: Any) -> dict[str, Any]:
    return {"x": torch.zeros(len(conversations))}


class Data(VqaDataModule):
    """Notes which settings its loader was asked with, and how many batches were taken."""

    def __init__(self, length: int) -> None:
        samples = [Sample((), (Turn("?", "!"),))] * length
        super().__init__(samples, batch_size=3, processor=encode)
        self.asked: list[int | None] = []
        self.taken: list[int] = []

    def train_dataloader(self) -> Any:
        self.asked.append(self.num_workers)
        self.taken.append(0)
        loader = super().train_dataloader()
        noting = self

        class Noting:
            def __len__(self) -> int:
                return len(loader)

            def __iter__(self) -> Iterator[Any]:
                for batch in loader:
                    noting.taken[-1] += 1
                    yield batch

        return Noting()


def test_settings_take_turns_and_every_batch_behind_the_warm_up_is_timed() -> None:
    """A clock that ticks at every look: a second to the first batch, a second for the rest."""
    data, ticks = Data(30), count()
    timings = time_settings(data, [NONE, ONE], 3, batches=4, clock=lambda: float(next(ticks)))
    assert data.asked == [0, 1, 0, 1, 0, 1]
    assert data.taken == [NONE.warm_up + 4, ONE.warm_up + 4] * 3 == [5, 6] * 3
    assert [timing.rates for timing in timings] == [[12.0] * 3] * 2
    assert [timing.first_s for timing in timings] == [[1.0] * 3] * 2


def test_too_short_a_source_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has 3 batches, but 0 workers are timed over 1 \+ 4"):
        time_settings(Data(9), [NONE], 1, batches=4)
