"""Step 1: what can be measured on an image, cell by cell. One group of channels a file."""

from lightning_arrcoc.relevance.textures.generator import TextureGenerator
from lightning_arrcoc.relevance.textures.picture import CELL_PX
from lightning_arrcoc.relevance.textures.place import Previous, side_by_side
from lightning_arrcoc.relevance.textures.table import CORE, FULL, TABLES, Channel, channel_index

__all__ = [
    "CELL_PX",
    "CORE",
    "FULL",
    "TABLES",
    "Channel",
    "Previous",
    "TextureGenerator",
    "channel_index",
    "side_by_side",
]
