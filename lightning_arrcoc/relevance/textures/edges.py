"""Edge channels."""

from __future__ import annotations

from torch import Tensor

from lightning_arrcoc.relevance.textures.picture import (
    CELL_PX,
    STEP_PX,
    Picture,
    block_max,
    per_cell,
)


def edges(picture: Picture) -> dict[str, Tensor]:
    """Strength and direction of luma edges in each cell."""
    across_columns, across_rows = picture.gradient_I2hw.abs().unbind(1)
    return {
        "edge_x": per_cell(across_columns),
        "edge_y": per_cell(across_rows),
        "edge_mean": per_cell(picture.edge_Ihw),
        "edge_peak": block_max(picture.small_edge_Ihw, CELL_PX // STEP_PX),
    }
