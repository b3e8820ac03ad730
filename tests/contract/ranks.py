"""Runs every drop-in in this one of two processes, and prints what its weights are then."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from registry import PIECES
from scenarios import QUIET, Data, Plain


def fit(folder: Path, settings: dict[str, Any]) -> str:
    """The weights in a few letters, or the words of a refusal."""
    pl.seed_everything(0, verbose=False)
    module = Plain()
    try:
        pl.Trainer(
            **{**QUIET, "devices": 2, "strategy": "ddp", "default_root_dir": folder, **settings}
        ).fit(module, Data())
    except pl.utilities.exceptions.MisconfigurationException as refusal:
        return str(refusal)
    content = b"".join(value.numpy().tobytes() for value in module.state_dict().values())
    return hashlib.sha256(content).hexdigest()


folder = Path(sys.argv[1])
without = {key: fit(folder, dict(piece.trainer)) for key, piece in PIECES.items() if piece.trainer}
found = {"": fit(folder, {})}
for number, (key, piece) in enumerate(PIECES.items()):
    found[key] = fit(folder, piece.settings(folder / str(number)))
    found[f"without {key}"] = without.get(key, found[""])
print("\n" + json.dumps(found), flush=True)
