"""Everything a long run needs, tried in a minute ahead of it."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

from lightning.pytorch.utilities.seed import isolate_rng
from rich.console import Console

from lightning_arrcoc.doctor import device, disk, model, samples, saving, steps, versions
from lightning_arrcoc.doctor.finding import Check, Patient, as_table, go_through

CHECKS = (
    Check("versions", versions.look),
    Check("device", device.look),
    Check("folder", disk.may_write),
    Check("git", disk.is_clean),
    Check("data", samples.look),
    Check("model", model.look),
    Check("room", disk.has_room, ("model",)),
    Check("one batch", steps.one_batch, ("device", "data", "model")),
    Check("overfit", steps.overfit, ("one batch",)),
    Check("ten steps", steps.ten_steps, ("one batch",)),
    Check("checkpoint", saving.look, ("ten steps",)),
    Check("loaders", steps.loading, ("ten steps",)),
)


def examine(config: Any) -> int:
    """Print a table of findings; 1 where a check failed, or with `strict` where one warned."""
    begun, console = perf_counter(), Console()
    with tempfile.TemporaryDirectory(prefix="doctor-") as scratch, quiet(), isolate_rng():
        patient = Patient(config, Path(config.folder).absolute(), Path(scratch))
        found = go_through(CHECKS, patient)
    for table in patient.shown:
        console.print(table)
    console.print(as_table(found))
    counts = [finding.status for finding in found.values()]
    told = ", ".join(f"{counts.count(word)} {word}" for word in ("ok", "warn", "fail", "skip"))
    console.print(f"{told}, in {perf_counter() - begun:.0f} s")
    bad = {"fail", "warn"} if config.strict else {"fail"}
    return int(not bad.isdisjoint(counts))


@contextmanager
def quiet() -> Iterator[None]:
    """Lightning announces every trainer, of which there are several; its warnings are shown."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)
