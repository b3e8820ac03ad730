"""Memory of a device and of the process, in bytes; nothing here waits for a device."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import psutil
import torch

from lightning_arrcoc.memory.nvml import Nvml

GIB = 2**30
MIB = 2**20
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class Reading(NamedTuple):
    """What an allocator tells.

    Attributes:
        allocated: bytes that tensors hold.
        reserved: bytes taken from the device for them, unused ones included.
        allocated_peak, reserved_peak: the most since `reset_peaks`.
        retries: allocations that came through only after the cache was emptied.
        ooms: allocations that failed.
    """

    allocated: int
    reserved: int
    allocated_peak: int
    reserved_peak: int
    retries: int = 0
    ooms: int = 0


class Memory(Protocol):
    """Memory of one device."""

    name: str
    has_allocator: bool
    """Whether tensors can be told from the rest of the process."""

    def read(self) -> Reading: ...

    def reset_peaks(self) -> None: ...

    def empty_cache(self) -> None: ...

    def capacity(self) -> int | None:
        """Bytes there are; None where nobody tells."""

    def used_by_process(self) -> int | None: ...

    def used_by_all(self) -> int | None: ...

    def unseen(self) -> list[str]:
        """What cannot be seen here, and why; a sentence each."""


class CudaMemory:
    """Through torch's caching allocator, and NVML for what lies outside it."""

    has_allocator = True

    def __init__(self, device: torch.device) -> None:
        self.index = torch.cuda.current_device() if device.index is None else device.index
        self.name = f"cuda:{self.index}"
        properties: Any = torch.cuda.get_device_properties(self.index)
        self._total = int(properties.total_memory)
        uuid = str(getattr(properties, "uuid", ""))
        self.nvml = Nvml(uuid, os.environ.get("CUDA_VISIBLE_DEVICES", ""))

    def read(self) -> Reading:
        # The flat dictionary of torch.cuda.memory_stats sorts hundreds of keys that nobody needs.
        stats = torch.cuda.memory_stats_as_nested_dict(self.index)
        if not stats:
            return Reading(0, 0, 0, 0)
        allocated, reserved = stats["allocated_bytes"]["all"], stats["reserved_bytes"]["all"]
        return Reading(
            allocated["current"], reserved["current"], allocated["peak"], reserved["peak"],
            stats["num_alloc_retries"], stats["num_ooms"],
        )  # fmt: skip

    def reset_peaks(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.index)

    def empty_cache(self) -> None:
        torch.cuda.empty_cache()

    def capacity(self) -> int:
        return self._total

    def used_by_process(self) -> int | None:
        return self.nvml.used_by_process()

    def used_by_all(self) -> int | None:
        return self.nvml.used_by_all()

    def unseen(self) -> list[str]:
        if self.nvml.problem is None:
            self.nvml.used_by_process()
        return [f"device memory outside torch ({self.nvml.problem})"] if self.nvml.problem else []


class Sampled:
    """Peaks of what is read now and then: a spike between two readings is not seen."""

    has_allocator = False

    def __init__(self) -> None:
        self._allocated = self._reserved = 0

    def sample(self, allocated: int, reserved: int) -> Reading:
        self._allocated = max(self._allocated, allocated)
        self._reserved = max(self._reserved, reserved)
        return Reading(allocated, reserved, self._allocated, self._reserved)

    def reset_peaks(self) -> None:
        self._allocated = self._reserved = 0


class MpsMemory(Sampled):
    """Through torch's allocator for Apple's chips, which keeps no peaks."""

    name, has_allocator = "mps", True

    def read(self) -> Reading:
        return self.sample(
            torch.mps.current_allocated_memory(), torch.mps.driver_allocated_memory()
        )

    def empty_cache(self) -> None:
        torch.mps.empty_cache()

    def capacity(self) -> int:
        return int(torch.mps.recommended_max_memory())

    def used_by_process(self) -> int:
        return torch.mps.driver_allocated_memory()

    def used_by_all(self) -> None:
        return None

    def unseen(self) -> list[str]:
        return ["peaks between two readings, retries and other processes (MPS keeps no count)"]


class ProcessMemory(Sampled):
    """Tensors on a CPU lie in the process's own memory, among everything else."""

    name = "cpu"

    def read(self) -> Reading:
        resident = resident_bytes()
        return self.sample(resident, resident)

    def empty_cache(self) -> None:
        pass

    @cache  # noqa: B019  # there is one for the process
    def capacity(self) -> int:
        limits = [int(psutil.virtual_memory().total)]
        for path in ("memory.max", "memory/memory.limit_in_bytes"):  # of a container, v2 and v1
            with suppress(OSError, ValueError):
                limits.append(int(Path("/sys/fs/cgroup", path).read_text()))
        return min(limits)

    def used_by_process(self) -> int:
        return resident_bytes()

    def used_by_all(self) -> None:
        return None

    def unseen(self) -> list[str]:
        return ["tensors apart from the rest of the process (a CPU has no allocator that counts)"]


class HighWater(ProcessMemory):
    """The process's true peak, which Linux alone tells and lets start anew.

    Whoever else asks the system for the process's peak finds it started anew too.
    """

    def reset_peaks(self) -> None:
        super().reset_peaks()
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    def read(self) -> Reading:
        reading = super().read()
        with suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    peak = int(line.split()[1]) * 1024
                    return reading._replace(allocated_peak=peak, reserved_peak=peak)
        return reading


def resident_bytes() -> int:
    """Main memory of this process that lies in RAM."""
    try:  # at every step; psutil takes four times as long
        descriptor = os.open("/proc/self/statm", os.O_RDONLY)
    except OSError:
        return int(_process(os.getpid()).memory_info().rss)
    try:
        return int(os.read(descriptor, 100).split()[1]) * PAGE
    finally:
        os.close(descriptor)


@cache
def _process(pid: int) -> Any:
    return psutil.Process(pid)


def memory_of(device: torch.device) -> Memory:
    """The memory of a device; of the process, where a device tells nothing of its own."""
    if device.type == "cuda":
        return CudaMemory(device)
    return MpsMemory() if device.type == "mps" else ProcessMemory()
