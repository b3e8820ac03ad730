"""A trained network, its checkpoint, and one export of each form for all tests of a file."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_arrcoc import ArrCocModule, ArrCocQwen3VL
from lightning_arrcoc.export.selector import SelectorProgram
from lightning_arrcoc.objectives import HardChoice
from lightning_arrcoc.plugins.checkpoint_file import write_checkpoint
from lightning_arrcoc.plugins.manifest import STAMPS
from lightning_arrcoc.vlm.lora import lora_parameters
from lightning_arrcoc.weights import belongings, trained_weights


def moved(model: ArrCocQwen3VL, seed: int = 0) -> ArrCocQwen3VL:
    """As far from fresh weights as training would bring them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        small = [*model.arr_coc.parameters(), *lora_parameters(model.backbone).values()]
        for weight in small:
            weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="session")
def model() -> ArrCocQwen3VL:
    torch.manual_seed(0)
    return moved(ArrCocQwen3VL.from_pretrained("tiny", dtype="float32"))


@pytest.fixture(scope="session")
def program(model: ArrCocQwen3VL) -> SelectorProgram:
    # A copy: whoever trains the model elsewhere wants gradients.
    return SelectorProgram(copy.deepcopy(model.arr_coc)).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def save() -> Callable[..., Path]:
    """Writes a checkpoint as fit does, and gives its path."""

    def write(model: ArrCocQwen3VL, path: Path, **metrics: Any) -> Path:
        content = {
            "state_dict": trained_weights(model, "arr_coc"),
            "global_step": 7,
            "pytorch-lightning_version": "2.6.6",
            STAMPS: {
                "architecture": {
                    "own": ArrCocModule(model, objective=HardChoice(seed=0)).architecture()
                },
                "metrics": metrics,
            },
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint(content | belongings(model, "arr_coc"), path)
        return path

    return write


@pytest.fixture(scope="session")
def checkpoint(
    model: ArrCocQwen3VL, save: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return save(model, tmp_path_factory.mktemp("run") / "checkpoints" / "last.ckpt")
