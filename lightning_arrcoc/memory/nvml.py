"""What the driver tells of a card: memory in use by this process and by everybody."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any


class Nvml:
    """One card, or one MIG slice of it, found by its UUID.

    Torch counts the devices that CUDA_VISIBLE_DEVICES leaves, the driver counts all: indices of
    one mean nothing to the other. What cannot be read is None, and `problem` says why.

    Args:
        uuid: the device's, as torch tells it; without a prefix.
        visible: CUDA_VISIBLE_DEVICES.
        library: `pynvml`, or what behaves like it.
    """

    def __init__(self, uuid: str, visible: str = "", library: Any = None) -> None:
        self.problem: str | None = None
        self._library = library
        self._handle: Any = None
        try:
            if library is None:
                import pynvml

                self._library = pynvml
            self._library.nvmlInit()
            self._handle = self._find(uuid, visible)
        except Exception as error:  # no driver, no permission, another vendor's card
            self._refused(error)

    def used_by_all(self) -> int | None:
        """Bytes of the card, or slice, that are taken, by whomever."""
        if self._handle is None:
            return None
        try:
            return int(self._library.nvmlDeviceGetMemoryInfo(self._handle).used)
        except Exception as error:
            self._refused(error)
            return None

    def used_by_process(self) -> int | None:
        """Bytes that this process takes, its CUDA context included."""
        if self._handle is None:
            return None
        try:
            own = [one for one in self._processes(self._handle) if one.pid == os.getpid()]
        except Exception as error:
            self._refused(error)
            return None
        if not own or own[0].usedGpuMemory is None:
            # In a container the driver tells the host's numbers of processes.
            self.problem = "the driver does not show this process among those on the card"
            return None
        return int(own[0].usedGpuMemory)

    def _find(self, uuid: str, visible: str) -> Any:
        slices = [name.strip() for name in visible.split(",") if name.strip().startswith("MIG-")]
        # CUDA shows a process one slice at most, so the first that is named is its device.
        names = [*slices[:1], f"GPU-{uuid}", f"MIG-{uuid}"]
        refusal: Exception | None = None
        for name in names:
            try:
                handle = self._library.nvmlDeviceGetHandleByUUID(name)
            except self._library.NVMLError as error:
                refusal = error
                continue
            return handle if name in slices else self._own_slice(handle)
        raise LookupError(f"the driver knows no card {' or '.join(names)}") from refusal

    def _own_slice(self, card: Any) -> Any:
        """Of a card in slices the one that this process runs on; else the card itself."""
        with suppress(self._library.NVMLError):
            if self._library.nvmlDeviceGetMigMode(card)[0]:
                for place in range(self._library.nvmlDeviceGetMaxMigDeviceCount(card)):
                    with suppress(self._library.NVMLError):
                        piece = self._library.nvmlDeviceGetMigDeviceHandleByIndex(card, place)
                        if any(one.pid == os.getpid() for one in self._processes(piece)):
                            return piece
        return card

    def _processes(self, handle: Any) -> list[Any]:
        return list(self._library.nvmlDeviceGetComputeRunningProcesses(handle))

    def _refused(self, error: Exception) -> None:
        self.problem = f"NVML: {error}"
        self._handle = None
