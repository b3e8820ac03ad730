"""Image and question -> which visual tokens to keep. Plain torch: no Lightning, no transformers.

Tensor names end in their axes: ``B`` samples, ``I`` images, ``C`` channels, ``H`` x ``W`` cells,
``N = H * W``, ``K`` kept, ``L`` sequence, ``D`` features, ``S`` scores (information,
perspectival, participatory), ``T`` tensions (exploit, compress, focus).
A cell is one merged token of Qwen3-VL: 32 x 32 pixels of the resized image.
"""

from lightning_arrcoc.relevance.allocation import Allocation, ImageRelevance, TokenAllocator
from lightning_arrcoc.relevance.balancing import AdaptiveTensions, FixedTensions
from lightning_arrcoc.relevance.knowing import Knowing
from lightning_arrcoc.relevance.realizer import (
    Realization,
    RelevanceRealizer,
    Selector,
    build_realizer,
)
from lightning_arrcoc.relevance.textures import CELL_PX, Previous, TextureGenerator

__all__ = [
    "CELL_PX",
    "AdaptiveTensions",
    "Allocation",
    "FixedTensions",
    "ImageRelevance",
    "Knowing",
    "Previous",
    "Realization",
    "RelevanceRealizer",
    "Selector",
    "TextureGenerator",
    "TokenAllocator",
    "build_realizer",
]
