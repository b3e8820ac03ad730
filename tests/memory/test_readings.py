"""What is read is what the system tells, and nothing is read where there is nothing."""

from __future__ import annotations

import mmap
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch

from lightning_arrcoc.memory import readings
from lightning_arrcoc.memory.readings import (
    MIB,
    CudaMemory,
    HighWater,
    MpsMemory,
    ProcessMemory,
    memory_of,
)


def test_on_a_cpu_the_process_is_read() -> None:
    memory = memory_of(torch.device("cpu"))
    assert isinstance(memory, ProcessMemory)
    rss = psutil.Process().memory_info().rss
    assert memory.read().allocated == pytest.approx(rss, rel=0.2)
    assert memory.used_by_all() is None
    assert "CPU" in memory.unseen()[0]


@contextmanager
def pages(mib: int) -> Iterator[None]:
    """Memory that malloc has no say in: it may have been told to keep what is freed."""
    with mmap.mmap(-1, mib * MIB) as memory:
        memory.write(b"1" * (mib * MIB))
        yield


def test_memory_in_use_is_seen_in_the_process() -> None:
    before = readings.resident_bytes()
    with pages(64):
        assert readings.resident_bytes() - before > 48 * MIB


def test_a_sampled_peak_is_the_most_that_was_read() -> None:
    memory = ProcessMemory()
    assert [memory.sample(size, size).allocated_peak for size in (3, 9, 4)] == [3, 9, 9]
    memory.reset_peaks()
    assert memory.sample(4, 5) == (4, 5, 4, 5, 0, 0)


@pytest.mark.skipif(platform.system() != "Linux", reason="Linux alone tells a true peak")
def test_a_true_peak_is_seen_between_two_readings() -> None:
    memory = HighWater()
    memory.reset_peaks()
    with pages(128):
        before = memory.read().allocated
    assert memory.read().allocated_peak > before - 28 * MIB
    assert memory.read().allocated < before - 100 * MIB
    memory.reset_peaks()
    assert memory.read().allocated_peak < before - 64 * MIB


def test_a_container_s_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path: "1000" if "max" in path.name else "max")
    assert ProcessMemory().capacity() == 1000
    monkeypatch.setattr(Path, "read_text", lambda path: "max")
    assert ProcessMemory().capacity() == psutil.virtual_memory().total


def test_mps_is_read_and_says_what_it_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 5)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 8)
    memory = memory_of(torch.device("mps"))
    assert isinstance(memory, MpsMemory)
    assert memory.read()[:2] == (5, 8)
    assert memory.used_by_all() is None
    assert "MPS" in memory.unseen()[0]


@pytest.mark.gpu
def test_a_gpu_tells_what_torch_tells() -> None:
    memory = memory_of(torch.device("cuda"))
    assert isinstance(memory, CudaMemory)
    memory.reset_peaks()
    kept = torch.ones(8 * MIB, device="cuda")
    del kept
    reading = memory.read()
    assert reading.allocated == torch.cuda.memory_allocated()
    assert reading.allocated_peak == torch.cuda.max_memory_allocated()
    assert reading.reserved_peak == torch.cuda.max_memory_reserved()
    assert memory.capacity() == torch.cuda.get_device_properties(0).total_memory
