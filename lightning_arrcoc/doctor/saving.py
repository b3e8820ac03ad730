"""A checkpoint saved, loaded and compared."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import torch

from lightning_arrcoc.doctor.disk import words
from lightning_arrcoc.doctor.finding import Finding, Patient
from lightning_arrcoc.plugins.atomic_checkpoint_io import AtomicCheckpointIO


def look(patient: Patient) -> Finding:
    """Save what the steps left, load it as a resumed run would, and compare.

    Raises:
        OSError: it cannot be written.
        ValueError: it holds objects.
    """
    trainer, module, io = patient.trainer, patient.module, AtomicCheckpointIO()
    path = patient.scratch / "doctor.ckpt"
    trainer.strategy.checkpoint_io = io
    begun = perf_counter()
    trainer.save_checkpoint(path)
    saved_s = perf_counter() - begun
    weights = {name: p.detach().cpu().clone() for name, p in trained(module).items()}
    loaded = io.load_checkpoint(path)
    expected = trainer._checkpoint_connector.dump_checkpoint(False)
    other = differing(
        {key: expected[key] for key in ("state_dict", "optimizer_states", "lr_schedulers")}, loaded
    )
    with torch.no_grad():
        for parameter in trained(module).values():
            parameter.zero_()
    module.on_load_checkpoint(loaded)
    module.load_state_dict(loaded["state_dict"])
    other = other or differing(weights, trained(module))
    if other:
        return Finding(
            "fail", f"{other} is another one when it is loaded", "see on_save_checkpoint"
        )
    size = words(path.stat().st_size)
    return Finding("ok", f"{size} saved in {saved_s:.2f} s, loaded and equal")


def trained(module: Any) -> dict[str, torch.Tensor]:
    """The parameters that a run changes."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def differing(wanted: Any, found: Any, place: str = "") -> str:
    """Where the first thing stands that is not as it was; empty where all is."""
    if isinstance(wanted, torch.Tensor):
        equal = isinstance(found, torch.Tensor) and torch.equal(wanted.cpu(), found.detach().cpu())
        return "" if equal else place
    if isinstance(wanted, dict):
        pairs = [(key, wanted[key], _at(found, key)) for key in wanted]
    elif isinstance(wanted, list | tuple):
        pairs = [(i, inner, _at(found, i)) for i, inner in enumerate(wanted)]
    else:
        return "" if wanted == found else place
    places = (differing(a, b, f"{place}.{key}".strip(".")) for key, a, b in pairs)
    return next(filter(None, places), "")


def _at(found: Any, key: Any) -> Any:
    try:
        return found[key]
    except (KeyError, IndexError, TypeError):
        return None
