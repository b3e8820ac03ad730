"""What the baselines share."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from lightning_arrcoc.relevance.allocation import TokenAllocator
from lightning_arrcoc.relevance.realizer import Realization, given_images
from lightning_arrcoc.relevance.textures import CELL_PX, Previous


class Baseline(nn.Module, ABC):
    """A selector that learns nothing: called like `RelevanceRealizer`, answers like it.

    Only the order of its relevance means anything.
    """

    def __init__(self) -> None:
        super().__init__()
        self.allocator = TokenAllocator(coarse=False)

    def forward(
        self,
        images_I3hw: Tensor | None,
        query_ILD: Tensor,
        mask_IL: Tensor,
        textures_ICHW: Tensor | None = None,
        previous: Previous | None = None,
    ) -> Realization:
        """As `RelevanceRealizer.forward`; scores are the relevance three times.

        What was seen before counts for nothing.
        """
        if textures_ICHW is not None:
            rows, columns = textures_ICHW.shape[-2:]
        else:
            rows, columns = (side // CELL_PX for side in given_images(images_I3hw).shape[-2:])
        logits = self.relevance_logit(len(query_ILD), rows, columns, images_I3hw)
        logits = logits.to(query_ILD.device)
        maps = logits[:, None]
        tensions = logits.new_tensor([0.5, 0.0, 1.0]).expand(len(logits), -1)
        return Realization(maps, maps.sigmoid().expand(-1, 3, -1, -1), tensions, logits)

    @abstractmethod
    def relevance_logit(
        self, count: int, rows: int, columns: int, images_I3hw: Tensor | None
    ) -> Tensor:
        """Log-odds of relevance ``(I, H, W)``, fp32."""
