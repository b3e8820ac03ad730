"""A model on an untrained backbone, and batches of pictures with questions for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lightning_arrcoc import ArrCocQwen3VL

Encode = Callable[..., dict[str, Any]]


@pytest.fixture
def model(backbone_folder: Path) -> ArrCocQwen3VL:
    """Frozen but for ARR-COC, whose weights are moved a little from their silent start."""
    torch.manual_seed(0)
    made = ArrCocQwen3VL.from_pretrained(str(backbone_folder), budget=0.25)
    made.requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.arr_coc.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    made.arr_coc.requires_grad_(True)
    return made


@pytest.fixture(scope="session")
def picture() -> Callable[..., Image.Image]:
    """Width and height in pixels, and a seed."""

    def picture(seed: int, size: tuple[int, int] = (128, 96)) -> Image.Image:
        pixels = torch.randint(
            256, (size[1] // 16, size[0] // 16, 3), generator=torch.manual_seed(seed)
        )
        small = Image.fromarray(pixels.to(torch.uint8).numpy())
        return small.resize(size, Image.Resampling.BILINEAR)

    return picture


@pytest.fixture
def encode(model: ArrCocQwen3VL) -> Encode:
    """Rows of (images, turns) as a batch."""

    def encode(*rows: Any, pack: bool = False) -> dict[str, Any]:
        assert model.processor is not None
        return model.processor(
            [
                {"images": list(images), "questions": [q for q, _ in turns],
                 "answers": [a for _, a in turns]}
                for images, turns in rows
            ],
            pack=pack,
        )  # fmt: skip

    return encode
