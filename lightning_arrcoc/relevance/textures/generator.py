"""Step 1: image -> texture channels on the token grid."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_arrcoc.relevance.textures.appearance import appearance
from lightning_arrcoc.relevance.textures.colour import colour
from lightning_arrcoc.relevance.textures.detail import contrast, detail
from lightning_arrcoc.relevance.textures.edges import edges
from lightning_arrcoc.relevance.textures.picture import CELL_PX, Picture
from lightning_arrcoc.relevance.textures.place import Previous, place, remembered
from lightning_arrcoc.relevance.textures.regions import boundaries
from lightning_arrcoc.relevance.textures.salience import edge_distance, salience, strokes
from lightning_arrcoc.relevance.textures.table import (
    TEXTURES_VERSION,
    channel_index,
    channel_table,
)

MEASURES = {  # each makes the channels of one group
    "colour": colour,
    "edge": edges,
    "detail": detail,
    "contrast": contrast,
    "salience": salience,
    "strokes": strokes,
    "distance": edge_distance,
    "regions": boundaries,
    "place": place,
    "appearance": appearance,
}
FIRST_TURN = Previous()


class TextureGenerator(nn.Module):
    """Describes each cell of an image by what can be measured on it. Learns nothing.

    Everything is measured per pixel and then averaged over the cell, so a thin line counts
    wherever it runs. One image never influences another.

    Args:
        channels: name of the channel table, "core" (13 channels) or "full" (40), or names of
            single channels, such as ``["red", "green", "blue"]``.

    Attributes:
        channels: the table's rows, in the order of the output.
        out_channels: C.
        remembers: whether a channel tells of the frame or turn before.
        fingerprint: sha256 hex of what decides how an image is described: version, channels, and
            the constants of the files that measure them.

    Raises:
        ValueError: no such table or channel, a channel twice, or none.

    Source: L. Itti, C. Koch, E. Niebur, "A model of saliency-based visual attention for rapid
    scene analysis", PAMI 1998, section 2 (centre-surround differences). Departures: Lab distance
    instead of separate colour opponents, no orientation, no normalisation between maps. Other
    channels name theirs where they are made.
    """

    def __init__(self, channels: str | Sequence[str] = "core") -> None:
        super().__init__()
        self.channels = channel_table(channels)
        self.out_channels = len(self.channels)
        self.remembers = any(channel.group == "previous" for channel in self.channels)

    @property
    def fingerprint(self) -> str:
        groups = {channel.group for channel in self.channels} & MEASURES.keys()
        homes = {Picture.__module__, *(MEASURES[group].__module__ for group in groups)}
        made_of = {
            "version": TEXTURES_VERSION,
            "channels": [list(channel) for channel in self.channels],
            "constants": {home: _constants(home) for home in sorted(homes)},
        }
        return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()

    def index(self, name: str) -> int:
        """Position of a channel.

        Raises:
            KeyError: the table has no such channel.
        """
        return channel_index(self.channels, name)

    def remember(
        self, images_I3hw: Tensor | None, textures_ICHW: Tensor, relevance_IHW: Tensor
    ) -> Previous | None:
        """What the next frame or turn is told of this one; None where no channel tells of it.

        Saliency is told where it is measured.
        """
        if not self.remembers:
            return None
        measured = any(channel.name == "saliency" for channel in self.channels)
        saliency_IHW = textures_ICHW[:, self.index("saliency")] if measured else None
        return Previous(images_I3hw, saliency_IHW, relevance_IHW.detach())

    @torch.no_grad()
    def forward(self, images_I3hw: Tensor, previous: Previous | None = None) -> Tensor:
        """Measure images of one size.

        Args:
            images_I3hw: RGB in [0, 1], float; height and width are multiples of 32.
            previous: the frame or turn before; None for a first one.

        Returns:
            ``(I, C, H, W)`` fp32, ranges as in the table.

        Raises:
            ValueError: the size is not a whole number of cells, or not that of `previous`.
        """
        height, width = images_I3hw.shape[-2:]
        if height % CELL_PX or width % CELL_PX or not height or not width:
            raise ValueError(
                f"Images of {height}x{width} px; expected multiples of {CELL_PX}, as a Qwen3-VL "
                "image processor makes them."
            )
        with torch.autocast(images_I3hw.device.type, enabled=False):
            picture = Picture(images_I3hw.float())
            measured: dict[str, Tensor] = {}
            for group in dict.fromkeys(channel.group for channel in self.channels):
                if group == "previous":
                    measured |= remembered(picture, previous or FIRST_TURN)
                else:
                    measured |= MEASURES[group](picture)
            return torch.stack([measured[channel.name] for channel in self.channels], dim=1)


def _constants(module: str) -> dict[str, Any]:
    """The numbers and tables that a file of measures is written with, by name."""
    named = vars(sys.modules[module]).items()
    plain = (int, float, str, tuple)
    return {name: value for name, value in sorted(named) if name.isupper() and type(value) in plain}
