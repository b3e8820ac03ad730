"""What several channels are measured on, made once."""

from __future__ import annotations

from functools import cached_property

import torch
from kornia.color import rgb_to_lab
from kornia.filters import gaussian_blur2d, spatial_gradient
from torch import Tensor
from torch.nn import functional as F

CELL_PX = 32  # one merged token of Qwen3-VL
STEP_PX = 4  # wide surroundings are measured on the image reduced by this much


class Picture:
    """Images of one size with views on them, each made when it is first asked for.

    Args:
        images_I3hw: RGB in [0, 1], fp32; height and width are multiples of 32.
    """

    def __init__(self, images_I3hw: Tensor) -> None:
        self.images_I3hw = images_I3hw

    @cached_property
    def luma_Ihw(self) -> Tensor:
        """ITU-R BT.601 luma in [0, 1]."""
        weights = self.images_I3hw.new_tensor([0.299, 0.587, 0.114])
        return torch.einsum("c,ichw->ihw", weights, self.images_I3hw)

    @cached_property
    def lab_I3hw(self) -> Tensor:
        """CIELAB under D65."""
        lab: Tensor = rgb_to_lab(self.images_I3hw)
        return lab

    @cached_property
    def small_lab_I3hw(self) -> Tensor:
        """CIELAB of areas of 4x4 pixels."""
        return F.avg_pool2d(self.lab_I3hw, STEP_PX)

    @cached_property
    def gradient_I2hw(self) -> Tensor:
        """Sobel derivatives of luma across columns and rows; a full step answers 1."""
        # kornia's kernel sums to 1 in absolute value: a full step answers 0.5.
        found: Tensor = 2 * spatial_gradient(self.luma_Ihw[:, None], mode="sobel")[:, 0]
        return found

    @cached_property
    def edge_Ihw(self) -> Tensor:
        """Sobel magnitude in [0, 1]."""
        return torch.hypot(*self.gradient_I2hw.unbind(1)) / 2**0.5


def per_cell(pixels_Ihw: Tensor, cell: int = CELL_PX) -> Tensor:
    """Mean over each cell: ``(I, h, w)`` -> ``(I, H, W)``."""
    return F.avg_pool2d(pixels_Ihw[:, None], cell)[:, 0]


def cell_pixels(pixels_Ihw: Tensor) -> Tensor:
    """The pixels of each cell: ``(I, h, w)`` -> ``(I, H, W, 32, 32)``."""
    return pixels_Ihw.unfold(1, CELL_PX, CELL_PX).unfold(2, CELL_PX, CELL_PX)


def blur(maps_ICHW: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, cut off at two sigma."""
    kernel = 2 * round(2 * sigma) + 1
    # Reflection needs a border smaller than the map; replication never fails.
    blurred: Tensor = gaussian_blur2d(
        maps_ICHW, (kernel, kernel), (sigma, sigma), border_type="replicate"
    )
    return blurred
