"""Checkpoints of several architectures on the embedded backbone, written as fit writes them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lightning_arrcoc import ArrCocModule, ArrCocQwen3VL
from lightning_arrcoc.compare import CheckpointComparator
from lightning_arrcoc.objectives import HardChoice
from lightning_arrcoc.plugins.checkpoint_file import write_checkpoint
from lightning_arrcoc.plugins.manifest import STAMPS
from lightning_arrcoc.relevance import (
    FixedTensions,
    Knowing,
    TextureGenerator,
    TokenAllocator,
    build_realizer,
)
from lightning_arrcoc.vlm.lora import add_lora, lora_parameters
from lightning_arrcoc.weights import belongings, trained_weights

CANVAS = (128, 96)
WIDTH = 96  # of the embedded backbone
QUESTION = "Which digit is red?"
Save = Callable[..., Path]

ARCHITECTURES: dict[str, Any] = {
    "core": build_realizer,
    "forty": partial(build_realizer, texture=TextureGenerator("full")),
    "fixed": partial(
        build_realizer,
        knowing=partial(Knowing, scorers=["information", "participatory"]),
        balancer=FixedTensions(0.6, 0.0, 1.0),
        allocator=TokenAllocator(coarse=False, temperature=0.5),
        query_blind=True,
    ),
    "adapted": build_realizer,
}


def canvas(seed: int = 0) -> Image.Image:
    pixels = torch.randint(
        256, (CANVAS[1], CANVAS[0], 3), generator=torch.Generator().manual_seed(seed)
    )
    return Image.fromarray(pixels.to(torch.uint8).numpy())


@cache
def untouched() -> ArrCocQwen3VL:
    """The embedded backbone, loaded once."""
    return ArrCocQwen3VL.from_pretrained("tiny", dtype="float32", budget=0.5).eval()


def trained(
    arr_coc: Any = build_realizer, seed: int = 0, lora: Any = None, folder: str | None = None,
    noise: float = 0.3,
) -> ArrCocQwen3VL:  # fmt: skip
    """A model whose small weights are as far from fresh ones as training would bring them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if folder is None and lora is None:
            model = ArrCocQwen3VL(untouched().backbone, arr_coc(WIDTH))
        else:
            model = ArrCocQwen3VL.from_pretrained(
                folder or "tiny", arr_coc=arr_coc, lora=lora, dtype="float32"
            )
        small = [*model.arr_coc.parameters(), *lora_parameters(model.backbone).values()]
        with torch.no_grad():
            for weight in small:
                weight.add_(noise * torch.randn_like(weight))
    return model.eval()


def content_of(model: ArrCocQwen3VL, step: int = 7, **more: Any) -> dict[str, Any]:
    """What a run's checkpoint holds of a model, and as much besides as an optimizer would."""
    module = ArrCocModule(model, objective=HardChoice(seed=0))
    weights = trained_weights(model, "arr_coc")
    content = {
        "state_dict": weights,
        "global_step": step,
        "optimizer_states": [{name: value.clone() for name, value in weights.items()}],
        STAMPS: {"architecture": {"own": module.architecture()}, "metrics": {"val/kept": 0.25}},
    }
    return content | belongings(model, "arr_coc") | more


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of each architecture."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for seed, (name, arr_coc) in enumerate(ARCHITECTURES.items()):
        lora = partial(add_lora, rank=2, alpha=6) if name == "adapted" else None
        write_checkpoint(content_of(trained(arr_coc, seed, lora)), folder / f"{name}.ckpt")
    # Less sure of itself, so that look-alikes count.
    write_checkpoint(content_of(trained(noise=0.0)), folder / "unsure.ckpt")
    return folder


@pytest.fixture(scope="session")
def loaded() -> ArrCocQwen3VL:
    """One backbone for all tests."""
    return untouched()


@pytest.fixture
def comparator(loaded: ArrCocQwen3VL, checkpoints: Path) -> CheckpointComparator:
    made = CheckpointComparator(loaded, max_loaded=2, max_new_tokens=3)
    made.register_folder(checkpoints)
    return made


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes a checkpoint of a model, or of a fresh one on the core channels."""

    def write(
        name: str = "one", model: ArrCocQwen3VL | None = None, seed: int = 0, **more: Any
    ) -> Path:
        path = tmp_path / f"{name}.ckpt"
        write_checkpoint(content_of(model or trained(seed=seed), **more), path)
        return path

    return write


@pytest.fixture
def train() -> Callable[..., ArrCocQwen3VL]:
    return trained


@pytest.fixture
def content() -> Callable[..., dict[str, Any]]:
    return content_of


@pytest.fixture
def image() -> Image.Image:
    return canvas()


@pytest.fixture
def question() -> str:
    return QUESTION
