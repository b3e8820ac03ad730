"""Step 1: image -> texture channels on the token grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from kornia.color import rgb_to_lab
from kornia.filters import gaussian_blur2d, spatial_gradient
from torch import Tensor, nn
from torch.nn import functional as F

CELL_PX = 32  # one merged token of Qwen3-VL
SALIENCY_STEP_PX = 4  # saliency is measured on the image reduced by this much
SALIENCY_SCALES = ((1.0, 4.0), (2.0, 8.0), (4.0, 16.0))  # centre, surround: sigma in such steps


class Channel(NamedTuple):
    """One row of the channel table; every value is a mean over the cell's pixels."""

    name: str
    group: str
    low: float
    high: float
    formula: str


CORE = (
    Channel("red", "colour", 0, 1, "sRGB red"),
    Channel("green", "colour", 0, 1, "sRGB green"),
    Channel("blue", "colour", 0, 1, "sRGB blue"),
    Channel("L", "colour", 0, 1, "CIELAB lightness / 100, D65"),
    Channel("a", "colour", -1, 1, "CIELAB green to red / 128, D65"),
    Channel("edge_x", "edge", 0, 1, "|Sobel across columns| of luma, 1 = black beside white"),
    Channel("edge_y", "edge", 0, 1, "|Sobel across rows| of luma, 1 = black above white"),
    Channel("edge_mean", "edge", 0, 1, "Sobel magnitude of luma / sqrt 2"),
    Channel("y", "place", 0, 1, "row of the cell's centre / rows"),
    Channel("x", "place", 0, 1, "column of the cell's centre / columns"),
    Channel("eccentricity", "place", 0, 1, "distance from the image's middle / half its diagonal"),
    Channel("saliency", "salience", 0, 1, "Lab distance of centre and surround / 100, mean scale"),
    Channel("contrast", "detail", 0, 1, "2 x standard deviation of luma inside the cell"),
)
TABLES: Mapping[str, tuple[Channel, ...]] = {"core": CORE}


class TextureGenerator(nn.Module):
    """Describes each cell of an image by colour, edges, place and salience. Learns nothing.

    Everything is measured per pixel and then averaged over the cell, so a thin line counts
    wherever it runs. One image never influences another.

    Args:
        channels: name of the channel table, "core" (13 channels).

    Attributes:
        channels: the table's rows, in the order of the output.
        out_channels: C.

    Source: L. Itti, C. Koch, E. Niebur, "A model of saliency-based visual attention for rapid
    scene analysis", PAMI 1998, section 2 (centre-surround differences). Departures: Lab distance
    instead of separate colour opponents, no orientation, no normalisation between maps.
    """

    def __init__(self, channels: str = "core") -> None:
        super().__init__()
        if channels not in TABLES:
            raise ValueError(f"channels={channels!r}; choose one of {', '.join(TABLES)}.")
        self.channels = TABLES[channels]
        self.out_channels = len(self.channels)

    def index(self, name: str) -> int:
        """Position of a channel.

        Raises:
            KeyError: the table has no such channel.
        """
        return channel_index(self.channels, name)

    @torch.no_grad()
    def forward(self, images_I3hw: Tensor) -> Tensor:
        """Measure images of one size.

        Args:
            images_I3hw: RGB in [0, 1], float; height and width are multiples of 32.

        Returns:
            ``(I, C, H, W)`` fp32, ranges as in the table.

        Raises:
            ValueError: the size is not a whole number of cells.
        """
        height, width = images_I3hw.shape[-2:]
        if height % CELL_PX or width % CELL_PX or not height or not width:
            raise ValueError(
                f"Images of {height}x{width} px; expected multiples of {CELL_PX}, as a Qwen3-VL "
                "image processor makes them."
            )
        with torch.autocast(images_I3hw.device.type, enabled=False):
            images = images_I3hw.float()
            measured = {**colour(images), **edges(images), **place(images), **salience(images)}
            return torch.stack([measured[channel.name] for channel in self.channels], dim=1)


def channel_index(channels: tuple[Channel, ...], name: str) -> int:
    """Position of a channel in a table; KeyError where it has none of that name."""
    for position, channel in enumerate(channels):
        if channel.name == name:
            return position
    raise KeyError(f"No channel {name!r}; there are {', '.join(c.name for c in channels)}.")


def per_cell(pixels_Ihw: Tensor) -> Tensor:
    """Mean over each cell: ``(I, h, w)`` -> ``(I, H, W)``."""
    return F.avg_pool2d(pixels_Ihw[:, None], CELL_PX)[:, 0]


def luma(images_I3hw: Tensor) -> Tensor:
    """ITU-R BT.601 luma ``(I, h, w)`` in [0, 1]."""
    weights = images_I3hw.new_tensor([0.299, 0.587, 0.114])
    return torch.einsum("c,ichw->ihw", weights, images_I3hw)


def colour(images_I3hw: Tensor) -> dict[str, Tensor]:
    """Mean colour of each cell."""
    lab = F.avg_pool2d(rgb_to_lab(images_I3hw), CELL_PX)
    red, green, blue = F.avg_pool2d(images_I3hw, CELL_PX).unbind(1)
    return {"red": red, "green": green, "blue": blue, "L": lab[:, 0] / 100, "a": lab[:, 1] / 128}


def edges(images_I3hw: Tensor) -> dict[str, Tensor]:
    """Strength of luma edges in each cell, and its contrast."""
    grey = luma(images_I3hw)
    # kornia's kernel sums to 1 in absolute value: a full step answers 0.5.
    dx, dy = (2 * spatial_gradient(grey[:, None], mode="sobel")[:, 0]).unbind(1)
    mean = F.interpolate(per_cell(grey)[:, None], scale_factor=float(CELL_PX), mode="nearest")[:, 0]
    spread = per_cell((grey - mean).square())  # squares first would leave rounding as contrast
    return {
        "edge_x": per_cell(dx.abs()),
        "edge_y": per_cell(dy.abs()),
        "edge_mean": per_cell(torch.hypot(dx, dy)) / 2**0.5,
        "contrast": 2 * spread.sqrt(),
    }


def place(images_I3hw: Tensor) -> dict[str, Tensor]:
    """Where each cell lies."""
    count, _, height, width = images_I3hw.shape
    rows, columns = height // CELL_PX, width // CELL_PX
    centres = [
        (torch.arange(n, device=images_I3hw.device, dtype=torch.float32) + 0.5) / n
        for n in (rows, columns)
    ]
    y, x = torch.meshgrid(*centres, indexing="ij")
    from_middle = torch.hypot((y - 0.5) * height, (x - 0.5) * width)
    maps = {"y": y, "x": x, "eccentricity": from_middle / (0.5 * (height**2 + width**2) ** 0.5)}
    return {name: values.expand(count, rows, columns) for name, values in maps.items()}


def salience(images_I3hw: Tensor) -> dict[str, Tensor]:
    """How each cell stands out from its surround, at several scales."""
    lab = F.avg_pool2d(rgb_to_lab(images_I3hw), SALIENCY_STEP_PX)
    differences = []
    for centre, surround in SALIENCY_SCALES:
        difference = _blur(lab, centre) - _blur(lab, surround)
        differences.append(difference.square().sum(1).sqrt())
    mean = torch.stack(differences).mean(0)
    cell = F.avg_pool2d(mean[:, None], CELL_PX // SALIENCY_STEP_PX)[:, 0]
    return {"saliency": (cell / 100).clamp(max=1)}


def _blur(maps: Tensor, sigma: float) -> Tensor:
    kernel = 2 * round(2 * sigma) + 1
    # Reflection needs a border smaller than the map; replication never fails.
    blurred: Tensor = gaussian_blur2d(
        maps, (kernel, kernel), (sigma, sigma), border_type="replicate"
    )
    return blurred
