"""Other ways to choose tokens, behind the realizer's interface, to be measured against."""

from lightning_arrcoc.relevance.baselines.baseline import Baseline
from lightning_arrcoc.relevance.baselines.blind import Everything, RandomCells, UniformGrid
from lightning_arrcoc.relevance.baselines.given import Given, oracle_map
from lightning_arrcoc.relevance.baselines.pixels import DivPruneLike, EdgeSaliency, PixelPruneLike

__all__ = [
    "Baseline",
    "DivPruneLike",
    "EdgeSaliency",
    "Everything",
    "Given",
    "PixelPruneLike",
    "RandomCells",
    "UniformGrid",
    "oracle_map",
]
