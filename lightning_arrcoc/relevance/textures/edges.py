"""Edge channels."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from lightning_arrcoc.relevance.textures.picture import CELL_PX, Picture, per_cell


def edges(picture: Picture) -> dict[str, Tensor]:
    """Strength and direction of luma edges in each cell."""
    across_columns, across_rows = picture.gradient_I2hw.abs().unbind(1)
    return {
        "edge_x": per_cell(across_columns),
        "edge_y": per_cell(across_rows),
        "edge_mean": per_cell(picture.edge_Ihw),
        "edge_peak": F.max_pool2d(picture.edge_Ihw[:, None], CELL_PX)[:, 0],
    }
