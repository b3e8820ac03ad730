"""Pictures of what was kept, and why.

Figures are made without pyplot, so nothing global knows of them.
"""

from lightning_arrcoc.pictures.answers import Answered, draw_answers
from lightning_arrcoc.pictures.explaining import Explaining, explain
from lightning_arrcoc.pictures.kept import draw_kept
from lightning_arrcoc.pictures.saving import save_figure
from lightning_arrcoc.pictures.sheet import Explained, draw_explained

__all__ = [
    "Answered",
    "Explained",
    "Explaining",
    "draw_answers",
    "draw_explained",
    "draw_kept",
    "explain",
    "save_figure",
]
