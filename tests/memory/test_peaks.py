"""Stretches that overlap each get their own peak."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

from lightning_arrcoc.memory.peaks import Peaks, peaks_of
from lightning_arrcoc.memory.ranks import Ranks


def test_an_inner_stretch_takes_nothing_from_the_outer_one(fake_memory: Any) -> None:
    peaks = Peaks(fake_memory)
    fake_memory.hold(10, 20)
    outer = peaks.span()
    fake_memory.hold(10, 20, peak=70)
    inner = peaks.span()
    fake_memory.hold(15, 30, peak=40)
    assert inner.take() == (40, 40)
    assert outer.take() == (70, 70)
    fake_memory.hold(12, 30)
    assert outer.take() == (15, 30)


def test_a_stretch_that_nobody_holds_is_forgotten(fake_memory: Any) -> None:
    peaks = Peaks(fake_memory)
    span = peaks.span()
    assert len(peaks._spans) == 1
    del span
    gc.collect()
    assert len(peaks._spans) == 0


def test_all_who_ask_for_a_device_share_its_peaks() -> None:
    assert peaks_of(torch.device("cpu")) is peaks_of(torch.device("cpu", 0))


def test_alone_the_highest_figure_is_one_s_own() -> None:
    ranks = Ranks()
    ranks.start()
    assert ranks.alone
    assert ranks.highest([3.0, None]) == [(3.0, 0), (None, 0)]


def test_of_two_processes_the_highest_figure_and_its_rank_are_known(together: Any) -> None:
    out = together("""
        from lightning_arrcoc.memory.ranks import Ranks
        ranks = Ranks()
        ranks.start()
        print(ranks.highest([[1.0, 7.0, None, None], [2.0, 5.0, 4.0, None]][rank]))
        ranks.stop()
    """)
    expected = "[Highest(value=2.0, rank=1), Highest(value=7.0, rank=0), " \
        "Highest(value=4.0, rank=1), Highest(value=None, rank=0)]"  # fmt: skip
    assert [text.strip() for text in out] == [expected] * 2


@pytest.mark.gpu
def test_a_gpu_s_peaks_overlap_as_well() -> None:
    peaks = peaks_of(torch.device("cuda"))
    outer = peaks.span()
    large = torch.empty(1 << 22, device="cuda")
    del large
    inner = peaks.span()
    small = torch.empty(1 << 20, device="cuda")
    least = inner.take().allocated
    assert outer.take().allocated >= least + (3 << 20)
    del small
