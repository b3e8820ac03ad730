"""What the run would compute on, and what its driver says."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

import psutil
import torch
from lightning.pytorch.accelerators import CUDAAccelerator

from lightning_arrcoc.data.workers import available_cores
from lightning_arrcoc.doctor.finding import Finding, Patient
from lightning_arrcoc.memory.readings import GIB
from lightning_arrcoc.targets import build

TAKEN = 0.1  # Chosen by us: a display takes less of a card, another run more


class Driver(NamedTuple):
    """NVIDIA's.

    Attributes:
        version: of the driver.
        cards: how many it sees.
    """

    version: str
    cards: int


def look(patient: Patient) -> Finding:
    """Make the trainer, as the run would, and look at its devices.

    Raises:
        MisconfigurationException: it asks for devices that are not there.
    """
    asked = build(
        patient.config.trainer, logger=False, callbacks=None, enable_checkpointing=False,
        default_root_dir=str(patient.scratch),
    )  # fmt: skip
    driver = nvidia_driver()
    if isinstance(asked.accelerator, CUDAAccelerator):
        return cards(asked.num_devices, driver)
    memory = psutil.virtual_memory()
    what = (
        f"{asked.strategy.root_device.type}, {available_cores()} cores, "
        f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB of memory free"
    )
    if torch.cuda.is_available():
        return Finding("warn", f"{what}; a CUDA device lies idle", "trainer=gpu")
    if driver is not None and driver.cards:
        return Finding(
            "warn",
            f"{what}; driver {driver.version} sees {driver.cards} cards, torch "
            f"{torch.__version__} cannot use them",
            "install torch for CUDA, or a newer driver",
        )
    return Finding("ok", what)


def cards(count: int, driver: Driver | None) -> Finding:
    """The first CUDA device, and how much of each is taken."""
    free = [torch.cuda.mem_get_info(place) for place in range(count)]
    told = f"driver {driver.version}, " if driver else ""
    what = (
        f"{count} x {torch.cuda.get_device_name(0)}, {told}CUDA {torch.version.cuda}, "
        f"{min(left for left, _ in free) / GIB:.1f} of {free[0][1] / GIB:.1f} GiB free"
    )
    if any(left < (1 - TAKEN) * total for left, total in free):
        return Finding("warn", f"{what}: others compute there", "see nvidia-smi")
    return Finding("ok", what)


def nvidia_driver() -> Driver | None:
    """None without one, or without nvidia-ml-py."""
    with suppress(Exception):  # no library, no driver, no permission
        import pynvml

        pynvml.nvmlInit()
        return Driver(str(pynvml.nvmlSystemGetDriverVersion()), int(pynvml.nvmlDeviceGetCount()))
    return None
