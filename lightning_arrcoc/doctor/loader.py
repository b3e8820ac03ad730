"""Times a few settings of the training loader and names the best."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.accelerators import CUDAAccelerator
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from lightning_arrcoc.data.datamodule import VqaDataModule
from lightning_arrcoc.data.workers import MOST_WORKERS, available_cores
from lightning_arrcoc.targets import build
from lightning_arrcoc.vlm import ChatProcessor
from lightning_arrcoc.vlm.loading import locate

PREFETCH = (2, 4)  # chosen by us: torch's own default, and twice that for batches of uneven cost


class Setting(NamedTuple):
    """How batches are loaded; smaller ones stand before larger ones."""

    num_workers: int
    prefetch_factor: int
    pin_memory: bool

    @property
    def warm_up(self) -> int:
        """Batches under way before the first is taken, which say more of starting than of pace."""
        return max(1, self.num_workers * self.prefetch_factor)


class Timing(NamedTuple):
    """What a setting took, round by round.

    Attributes:
        setting: what was timed.
        rates: samples a second.
        first_s: seconds to the first batch, the start of the workers included.
    """

    setting: Setting
    rates: list[float]
    first_s: list[float]


def examine(config: DictConfig) -> int:
    """Print a table of settings and the best of them as overrides."""
    trainer = build(config.trainer, logger=False, callbacks=None, enable_checkpointing=False)
    on_cuda = isinstance(trainer.accelerator, CUDAAccelerator)
    processor = ChatProcessor.from_pretrained(
        locate(config.model.backbone),
        min_pixels=config.model.min_pixels,
        max_pixels=config.model.max_pixels,
    )
    data = build(config.data, processor=processor)
    data.trainer = trainer
    settings = candidates(available_cores() // trainer.num_devices, on_cuda)
    device = trainer.strategy.root_device if on_cuda else None
    timings = time_settings(data, settings, config.rounds, config.batches, device)
    best = choose(timings)
    console = Console()
    console.print(as_table(timings, best, on_cuda, config))
    console.print("Best:", *overrides(best, on_cuda), soft_wrap=True)
    return 0


def candidates(cores: int, on_cuda: bool) -> list[Setting]:
    """No worker, and 1, 2, 4 ... of them up to one a core; smaller settings first."""
    workers = [2**power for power in range(MOST_WORKERS.bit_length()) if 2**power <= max(1, cores)]
    pins = (False, True) if on_cuda else (False,)
    return [Setting(0, PREFETCH[0], pin) for pin in pins] + [
        Setting(count, factor, pin) for count in workers for factor in PREFETCH for pin in pins
    ]


def time_settings(
    data: VqaDataModule,
    settings: Sequence[Setting],
    rounds: int,
    batches: int,
    device: Any = None,
    clock: Callable[[], float] = perf_counter,
) -> list[Timing]:
    """Time the settings in turn, several times over, so that a slow spell slows all of them.

    Args:
        data: whose training loader is timed.
        settings: what to try.
        rounds: over all settings.
        batches: timed in each, after the warm-up.
        device: where batches are moved, as a step would; None leaves them.
        clock: seconds.

    Raises:
        ValueError: the source has too few batches for it.
    """
    timings = [Timing(setting, [], []) for setting in settings]
    for _ in range(rounds):
        for setting, rates, first_s in timings:
            data.num_workers, data.prefetch_factor, data.pin_memory = setting
            loader = data.train_dataloader()
            if len(loader) < setting.warm_up + batches:
                raise ValueError(
                    f"The training split has {len(loader)} batches, but {setting.num_workers} "
                    f"workers are timed over {setting.warm_up} + {batches}. Lower batches=... or "
                    "data.batch_size; so few samples need no workers."
                )
            first, rate = _pace(_moved(iter(loader), device), setting.warm_up, batches, clock)
            first_s.append(first)
            rates.append(rate)
    return timings


def _pace(
    passing: Iterator[int], warm_up: int, batches: int, clock: Callable[[], float]
) -> tuple[float, float]:
    """Seconds to the first batch, and samples a second behind the warm-up."""
    begun = clock()
    next(passing)
    first = clock() - begun
    for _ in range(warm_up - 1):
        next(passing)
    begun = clock()
    samples = sum(next(passing) for _ in range(batches))
    return first, samples / (clock() - begun)


def choose(timings: Sequence[Timing]) -> Setting:
    """The smallest setting whose median is no worse than the slowest round of the fastest one."""
    fastest = max(timings, key=lambda timing: median(timing.rates))
    enough = min(fastest.rates)
    return min(timing.setting for timing in timings if median(timing.rates) >= enough)


def overrides(setting: Setting, on_cuda: bool) -> list[str]:
    """The setting as words of a command line."""
    words = [f"data.num_workers={setting.num_workers}"]
    if setting.num_workers:
        words.append(f"data.prefetch_factor={setting.prefetch_factor}")
    if on_cuda:
        words.append(f"data.pin_memory={str(setting.pin_memory).lower()}")
    return words


def as_table(timings: Sequence[Timing], best: Setting, on_cuda: bool, config: DictConfig) -> Table:
    """A row for each setting, the best one marked."""
    title = (
        f"Training samples a second: batches of {config.data.batch_size}, median, slowest and "
        f"fastest of {config.rounds} rounds of {config.batches} batches"
    )
    columns = ["", "num_workers", "prefetch_factor", *(["pin_memory"] if on_cuda else [])]
    table = Table(
        *columns, "samples/s", "from", "to", "first (s)", title=title, title_justify="left"
    )
    for setting, rates, first_s in timings:
        factor = str(setting.prefetch_factor) if setting.num_workers else ""
        table.add_row(
            "*" if setting == best else "", str(setting.num_workers), factor,
            *([str(setting.pin_memory).lower()] if on_cuda else []),
            *(f"{rate:.1f}" for rate in (median(rates), min(rates), max(rates))),
            f"{median(first_s):.2f}",
        )  # fmt: skip
    return table


def _moved(batches: Iterator[Any], device: Any) -> Iterator[int]:
    """The number of samples in each batch, once it lies on the device."""
    for batch in batches:
        if device is not None:
            move_data_to_device(batch["inputs"], device)["input_ids"].sum().item()  # waits
        yield len(batch["answers"])
