"""What the tests of all groups share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage import data

from lightning_arrcoc.relevance.textures import CELL_PX, TextureGenerator

TEXTURE = TextureGenerator("full")


@pytest.fixture(scope="session")
def measure():
    """Images to channel name -> ``(I, H, W)``."""

    def measure(images_I3hw, previous=None):
        measured = TEXTURE(images_I3hw, previous).unbind(1)
        names = [channel.name for channel in TEXTURE.channels]
        return dict(zip(names, measured, strict=True))

    return measure


@pytest.fixture(scope="session")
def mean_of_cells():
    """The reference's own pooling, in float64."""

    def mean_of_cells(pixels_hw, cell=CELL_PX):
        pixels_hw = np.asarray(pixels_hw, dtype=np.float64)
        height, width = pixels_hw.shape
        cells = pixels_hw.reshape(height // cell, cell, width // cell, cell)
        return torch.from_numpy(cells.mean((1, 3))).float()

    return mean_of_cells


@pytest.fixture(scope="session")
def luma_of():
    """An image's luma as float64 numpy."""

    def luma_of(image_3hw):
        red, green, blue = image_3hw.double().numpy()
        return 0.299 * red + 0.587 * green + 0.114 * blue

    return luma_of


@pytest.fixture(scope="session")
def grey():
    """Luma to a grey picture ``(1, 3, h, w)``."""

    def grey(pixels_hw):
        return torch.as_tensor(pixels_hw, dtype=torch.float32).expand(1, 3, -1, -1)

    return grey


@pytest.fixture(scope="session")
def picture():
    """A picture ``(1, 3, h, w)`` with flat patches, ramps, a sharp frame and noise."""

    def picture(rows=2, columns=3, seed=0):
        random = torch.Generator().manual_seed(seed)
        height, width = rows * CELL_PX, columns * CELL_PX
        image = torch.rand(3, 1, 1, generator=random).expand(3, height, width).clone()
        image[:, : height // 2] *= torch.linspace(0, 1, width)
        image[0, height // 3 : height // 2, width // 4 : width // 2] = 1
        image[:, -20:, -20:] = torch.rand(3, 20, 20, generator=random)
        return image[None]

    return picture


@pytest.fixture(scope="session")
def photograph():
    """A photograph of 256 x 384 px, ``(1, 3, h, w)``."""
    pixels = torch.from_numpy(data.astronaut()[:256, 64:448].copy())
    return pixels.movedim(-1, 0)[None].float() / 255
