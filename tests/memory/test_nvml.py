"""The right card is asked, and what the driver refuses is told, not raised."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import pytest

from lightning_arrcoc.memory.nvml import Nvml

UUID = "5f3a1c0e-0000-0000-0000-000000000001"


class Process(NamedTuple):
    pid: int
    usedGpuMemory: int | None


class Info(NamedTuple):
    used: int


class Driver:
    """Behaves like pynvml for a machine of a few cards and slices."""

    class NVMLError(Exception):
        pass

    def __init__(self, cards: dict[str, list[Process]], slices: list[str] | None = None) -> None:
        self.cards, self.slices = cards, slices or []
        self.refuses = ""

    def _may(self, name: str) -> None:
        if name == self.refuses:
            raise self.NVMLError("Insufficient Permissions")

    def nvmlInit(self) -> None:  # noqa: N802
        self._may("init")

    def nvmlDeviceGetHandleByUUID(self, name: str) -> str:  # noqa: N802
        if name not in self.cards:
            raise self.NVMLError("Not Found")
        return name

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Info:  # noqa: N802
        self._may("memory")
        return Info(sum(one.usedGpuMemory or 0 for one in self.cards[handle]))

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Process]:  # noqa: N802
        self._may("processes")
        return self.cards[handle]

    def nvmlDeviceGetMigMode(self, handle: str) -> tuple[int, int]:  # noqa: N802
        return (int(bool(self.slices)),) * 2  # type: ignore[return-value]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: str) -> int:  # noqa: N802
        return len(self.slices) + 1

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: str, place: int) -> str:  # noqa: N802
        if place >= len(self.slices):
            raise self.NVMLError("Not Found")
        return self.slices[place]


MINE, OTHER = Process(os.getpid(), 300), Process(1, 500)


def test_a_card_is_found_by_uuid_whatever_its_number() -> None:
    driver = Driver({"GPU-another": [OTHER], f"GPU-{UUID}": [OTHER, MINE]})
    card = Nvml(UUID, "1", driver)
    assert (card.used_by_process(), card.used_by_all(), card.problem) == (300, 800, None)


def test_a_slice_that_is_named_is_the_one_that_is_asked() -> None:
    driver = Driver({f"GPU-{UUID}": [OTHER, MINE], "MIG-a": [OTHER], "MIG-b": [MINE]})
    card = Nvml(UUID, "MIG-b", driver)
    assert (card.used_by_process(), card.used_by_all()) == (300, 300)


def test_without_its_name_the_slice_is_found_by_the_process_on_it() -> None:
    cards = {f"GPU-{UUID}": [OTHER, MINE], "MIG-a": [OTHER], "MIG-b": [MINE]}
    card = Nvml(UUID, "0", Driver(cards, slices=["MIG-a", "MIG-b"]))
    assert card.used_by_all() == 300


def test_torch_may_tell_the_uuid_of_the_slice_itself() -> None:
    assert Nvml(UUID, "", Driver({f"MIG-{UUID}": [MINE]})).used_by_process() == 300


def test_a_container_that_hides_processes_is_told() -> None:
    card = Nvml(UUID, "", Driver({f"GPU-{UUID}": [OTHER]}))
    assert card.used_by_process() is None
    assert card.used_by_all() == 500
    assert "does not show this process" in str(card.problem)


def test_a_driver_that_hides_amounts_is_told() -> None:
    card = Nvml(UUID, "", Driver({f"GPU-{UUID}": [Process(os.getpid(), None)]}))
    assert card.used_by_process() is None
    assert card.problem is not None


@pytest.mark.parametrize("what", ["init", "memory", "processes"])
def test_a_refusal_is_told_and_asked_no_more(what: str) -> None:
    driver = Driver({f"GPU-{UUID}": [MINE]})
    driver.refuses = what
    card = Nvml(UUID, "", driver)
    found: list[Any] = [card.used_by_process(), card.used_by_all(), card.used_by_process()]
    assert found[-1] is None
    assert "Insufficient Permissions" in str(card.problem)


def test_an_unknown_card_is_told_with_the_names_that_were_tried() -> None:
    card = Nvml(UUID, "", Driver({}))
    assert card.used_by_all() is None
    assert f"GPU-{UUID}" in str(card.problem)


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="there is a driver")  # noqa: PTH110
def test_a_machine_without_a_driver_is_told() -> None:
    card = Nvml(UUID)
    assert card.used_by_process() is None
    assert str(card.problem).startswith("NVML: ")
