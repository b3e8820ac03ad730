"""What several channels are measured on, made once."""

from __future__ import annotations

from functools import cached_property

import torch
from kornia.color import rgb_to_linear_rgb
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torch.nn import functional as F

CELL_PX = 32  # one merged token of Qwen3-VL
STEP_PX = 4  # wide surroundings are measured on the image reduced by this much
TABLED = 2**16  # entries of a looked-up curve; chosen by us: Lab moves by less than 0.1
XYZ_OF_D65 = (  # linear sRGB to XYZ over the white point, as kornia and scikit-image have them
    (0.412453 / 0.95047, 0.357580 / 0.95047, 0.180423 / 0.95047),
    (0.212671, 0.715160, 0.072169),
    (0.019334 / 1.08883, 0.119193 / 1.08883, 0.950227 / 1.08883),
)
LAB_OF_ROOTS = ((0.0, 116.0, 0.0), (500.0, -500.0, 0.0), (0.0, 200.0, -200.0))


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
        return lab(self.images_I3hw)

    @cached_property
    def small_lab_I3hw(self) -> Tensor:
        """CIELAB of areas of 4x4 pixels."""
        return block_mean(self.lab_I3hw, STEP_PX)

    @cached_property
    def gradient_I2hw(self) -> Tensor:
        """Sobel derivatives of luma across columns and rows; a full step answers 1."""
        return sobel(self.luma_Ihw)

    @cached_property
    def edge_Ihw(self) -> Tensor:
        """Sobel magnitude in [0, 1]."""
        return torch.hypot(*self.gradient_I2hw.unbind(1)) / 2**0.5

    @cached_property
    def small_edge_Ihw(self) -> Tensor:
        """Largest Sobel magnitude in areas of 4x4 pixels."""
        return block_max(self.edge_Ihw, STEP_PX)


def lab(images_I3hw: Tensor) -> Tensor:
    """CIELAB of sRGB under D65, per pixel.

    Departure: both curves are looked up in tables of 65536 steps, seven times faster than powers;
    L is off by at most 0.01 of 100, a and b by 0.07 of 128, and at random.
    """
    device = images_I3hw.device
    ramp = torch.linspace(0, 1, TABLED, device=device)
    linear = rgb_to_linear_rgb(ramp.expand(1, 3, 1, -1))[0, 0, 0]
    root = torch.where(ramp > 0.008856, ramp.pow(1 / 3), 7.787 * ramp + 4 / 29)
    to_xyz, to_lab = (torch.tensor(rows, device=device) for rows in (XYZ_OF_D65, LAB_OF_ROOTS))
    offset = torch.tensor([-16.0, 0.0, 0.0], device=device)[:, None]
    found = torch.empty_like(images_I3hw, memory_format=torch.contiguous_format)
    # A row of cells at a time: what lies between then stays in the processor's cache.
    parts = (torch.split(pixels, CELL_PX, 2) for pixels in (images_I3hw, found))
    for rows, into in zip(*parts, strict=True):
        xyz = to_xyz @ looked_up(linear, rows).flatten(2)
        into.copy_((to_lab @ looked_up(root, xyz) + offset).view_as(into))
    return found


def looked_up(curve: Tensor, values: Tensor) -> Tensor:
    """A tabled function of [0, 1] at the nearest entries; values outside count as the ends."""
    last = len(curve) - 1
    entry = (values * last + 0.5).clamp_(0, last).to(torch.int32)
    return curve.index_select(0, entry.flatten()).view_as(values)


def sobel(luma_Ihw: Tensor) -> Tensor:
    """Sobel derivatives across columns and rows ``(I, 2, h, w)``; a full step answers 1."""
    # Written out: a convolution of one channel takes twenty times as long.
    padded = F.pad(luma_Ihw[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    smooth = (padded[:, :-2] + padded[:, 2:]).add_(padded[:, 1:-1], alpha=2)
    step = padded[:, 2:] - padded[:, :-2]
    across_columns = (smooth[..., 2:] - smooth[..., :-2]).mul_(0.25)
    across_rows = (step[..., :-2] + step[..., 2:]).add_(step[..., 1:-1], alpha=2).mul_(0.25)
    return torch.stack([across_columns, across_rows], dim=1)


def per_cell(pixels_Ihw: Tensor, cell: int = CELL_PX) -> Tensor:
    """Mean over each cell: ``(I, h, w)`` -> ``(I, H, W)``."""
    return block_mean(pixels_Ihw[:, None], cell)[:, 0]


def block_mean(maps_ICHW: Tensor, side: int) -> Tensor:
    """Mean over squares; rows first, which is several times as fast as pooling at once."""
    rows = torch.unflatten(maps_ICHW, 2, (-1, side)).mean(3)
    return torch.unflatten(rows, 3, (-1, side)).mean(4)


def block_max(pixels_Ihw: Tensor, side: int) -> Tensor:
    """Maximum over squares."""
    rows = torch.unflatten(pixels_Ihw, 1, (-1, side)).amax(2)
    return torch.unflatten(rows, 2, (-1, side)).amax(3)


def cell_view(pixels_Ihw: Tensor) -> Tensor:
    """Pixels by cell, without a copy: ``(I, H, 32, W, 32)``."""
    rows = torch.unflatten(pixels_Ihw, 1, (-1, CELL_PX))
    return torch.unflatten(rows, 3, (-1, CELL_PX))


def cell_spread(pixels_Ihw: Tensor) -> Tensor:
    """Variance inside each cell ``(I, H, W)``."""
    # Not the mean of squares less the squared mean: that leaves rounding as spread.
    cells = cell_view(pixels_Ihw)
    mean = per_cell(pixels_Ihw)[:, :, None, :, None]
    return (cells - mean).square_().mean(2).mean(-1)


def blur(maps_ICHW: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, cut off at two sigma."""
    kernel = 2 * round(2 * sigma) + 1
    # Reflection needs a border smaller than the map; replication never fails.
    blurred: Tensor = gaussian_blur2d(
        maps_ICHW, (kernel, kernel), (sigma, sigma), border_type="replicate"
    )
    return blurred
