"""The model, made as the run would make it."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import seed_everything

from lightning_arrcoc.callbacks.checkpointing.resuming import LAST_VERIFIED
from lightning_arrcoc.doctor.finding import Finding, Patient, sentence
from lightning_arrcoc.plugins.atomic_checkpoint_io import AtomicCheckpointIO
from lightning_arrcoc.targets import build


def look(patient: Patient) -> Finding:
    """Load the backbone and build what trains, with the weights that the run begins with.

    Raises:
        OSError: there is no such checkpoint.
        ValueError: the weights belong to another architecture, or a part refuses its settings.
    """
    config = patient.config
    seed_everything(config.seed, workers=True, verbose=False)
    try:
        backbone = build(config.model)
    except OSError as error:
        what = f"{config.model.backbone}: {sentence(error)}"
        return Finding("fail", what, "name a folder, or a hub id within reach: model.backbone=...")
    module = build(config.training, model=backbone)
    named = config.ckpt or config.weights
    if named is not None and Path(named).name != LAST_VERIFIED:  # that one is yet to find
        module.start_from(AtomicCheckpointIO().load_checkpoint(named))
    patient.module = module
    everything = sum(p.numel() for p in module.model.parameters())
    trained = sum(p.numel() for p in module.model.parameters() if p.requires_grad)
    if not trained:
        return Finding("fail", f"none of {everything:,} parameters trains", "see training=")
    begun = f", as in {named}" if named else ""
    return Finding("ok", f"{module.trains}: {trained:,} of {everything:,} parameters train{begun}")
