"""Fixtures that many tests share: an untrained tiny Qwen3-VL in the real folder layout."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lightning_arrcoc.memory import peaks
from lightning_arrcoc.memory.readings import Reading

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")
if "PYTEST_XDIST_WORKER" in os.environ:  # the processes share the cores, and so do theirs
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell does so to its background jobs
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or Ctrl-C would reach no test


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a GPU where there is none, and slow tests unless asked for."""
    wants_slow = "slow" in str(config.getoption("-m"))
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if "slow" in item.keywords and not wants_slow:
            item.add_marker(pytest.mark.skip(reason="slow; run with -m slow"))


@pytest.fixture(scope="session")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3-VL as the hub stores it, with random weights in several safetensors shards."""
    from lightning_arrcoc.vlm.tiny.make import make_backbone

    folder = tmp_path_factory.mktemp("qwen3_vl")
    make_backbone(folder, max_shard_size="1MB")
    return folder


@pytest.fixture
def together(tmp_path: Path) -> Callable[[str], list[str]]:
    """Runs code in two processes joined by gloo; `rank` is known to it. Gives what each prints."""

    def run(code: str) -> list[str]:
        meeting = f"file://{tmp_path / 'meeting'}"
        joined = (
            "import sys, torch.distributed as dist; rank = int(sys.argv[1])\n"
            f"dist.init_process_group('gloo', init_method={meeting!r}, rank=rank, world_size=2)\n"
            f"{textwrap.dedent(code)}\n"
            "dist.destroy_process_group()\n"
        )
        started = [
            subprocess.Popen(
                [sys.executable, "-c", joined, str(rank)], cwd=tmp_path, text=True,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
            for rank in range(2)
        ]  # fmt: skip
        try:
            ended = [process.communicate(timeout=240) for process in started]
        finally:
            for process in started:
                process.kill()
        assert [process.returncode for process in started] == [0, 0], ended
        return [out for out, _ in ended]

    return run


class FakeMemory:
    """A device whose memory is what a test says it is."""

    name, has_allocator = "fake", True

    def __init__(self) -> None:
        self.allocated = self.reserved = self.others = self.retries = self.ooms = 0
        self.peak = self.emptied = 0
        self.total: int | None = 1 << 34
        self.problems: list[str] = []

    def hold(self, allocated: int, reserved: int | None = None, peak: int = 0) -> None:
        self.allocated = allocated
        self.reserved = allocated if reserved is None else reserved
        self.peak = max(self.peak, allocated, peak)

    def read(self) -> Reading:
        peak = max(self.peak, self.allocated)
        return Reading(
            self.allocated, self.reserved, peak, max(peak, self.reserved), self.retries, self.ooms
        )

    def reset_peaks(self) -> None:
        self.peak = self.allocated

    def empty_cache(self) -> None:
        self.emptied += 1
        self.reserved = self.allocated

    def capacity(self) -> int | None:
        return self.total

    def used_by_process(self) -> int | None:
        return self.reserved

    def used_by_all(self) -> int | None:
        return self.reserved + self.others

    def unseen(self) -> list[str]:
        return self.problems


@pytest.fixture
def fake_memory(monkeypatch: pytest.MonkeyPatch) -> FakeMemory:
    """Stands where the memory of the CPU is read from."""
    memory = FakeMemory()
    monkeypatch.setitem(peaks._SHARED, "cpu:0", peaks.Peaks(memory))
    return memory
