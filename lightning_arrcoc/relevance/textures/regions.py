"""Superpixel boundaries."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_arrcoc.relevance.textures.picture import CELL_PX, STEP_PX, Picture, per_cell

SPACING = 4  # between seeds, in steps of 4 px: a cell holds four superpixels
COMPACTNESS = 10.0  # Lab units that one spacing of distance weighs
ROUNDS = 3
NOTICED = 2.3  # Lab distance that people just notice (Mahy et al., 1994)


def boundaries(picture: Picture) -> dict[str, Tensor]:
    """Where superpixels of noticeably different colour meet.

    Source: R. Achanta et al., SLIC superpixels compared to state-of-the-art superpixel methods,
    PAMI 2012, section 4. Departures: on the image reduced four times, three rounds, no cleaning
    of stray pixels; a boundary counts only where the colours on its sides differ noticeably, so
    that a flat image has none.
    """
    lab = picture.small_lab_I3hw
    label, centres = superpixels(lab)
    mean = centres.flatten(0, 1)[:, :3][label].movedim(-1, 1)
    right = F.pad((mean[..., 1:] - mean[..., :-1]).square().sum(1).sqrt(), (0, 1))
    below = F.pad((mean[:, :, 1:] - mean[:, :, :-1]).square().sum(1).sqrt(), (0, 0, 0, 1))
    meets = (torch.maximum(right, below) > NOTICED).to(lab.dtype)
    return {"boundary": per_cell(meets, CELL_PX // STEP_PX)}


def superpixels(lab_I3hw: Tensor) -> tuple[Tensor, Tensor]:
    """Label of each pixel ``(I, h, w)``, and each centre's Lab, row and column ``(I, S, 5)``.

    A centre starts in the middle of its square of `SPACING` pixels; a pixel joins the most
    similar of the nine around its own square. Labels count through all images.
    """
    count, _, height, width = lab_I3hw.shape
    rows, columns = height // SPACING, width // SPACING
    y, x = torch.meshgrid(
        torch.arange(height, device=lab_I3hw.device, dtype=lab_I3hw.dtype),
        torch.arange(width, device=lab_I3hw.device, dtype=lab_I3hw.dtype),
        indexing="ij",
    )
    place = torch.stack([y, x]).expand(count, -1, -1, -1) * (COMPACTNESS / SPACING)
    pixels = torch.cat([lab_I3hw, place], dim=1)
    squares = pixels.reshape(count, 5, rows, SPACING, columns, SPACING)
    squares = squares.permute(0, 2, 4, 3, 5, 1).reshape(-1, SPACING**2, 5)
    start = squares.mean(1)
    # Seen from its square's own start, no number is large enough to round a distance away.
    near = (squares - start[:, None]).mT.contiguous()
    around = _neighbours(count, rows, columns, lab_I3hw.device)
    centres, label = start, around[:, :1]
    for _ in range(ROUNDS):
        seen = centres[around] - start[:, None]
        # |pixel - centre|^2 without the pixel's own square, which is the same for all nine.
        distance = torch.baddbmm(seen.square().sum(-1, keepdim=True), seen, near, alpha=-2)
        label = around.gather(1, first_lowest(distance))
        centres = _means(squares, label, centres)
    label = label.view(count, rows, columns, SPACING, SPACING).transpose(2, 3)
    return label.reshape(count, height, width), centres.view(count, rows * columns, 5)


def first_lowest(distance_SKP: Tensor) -> Tensor:
    """Index of the lowest of K, the first of equals: ``(S, P)``."""
    # torch's own argmin along an inner axis takes five times as long.
    lowest, *others = distance_SKP.unbind(1)
    index = torch.zeros_like(lowest, dtype=torch.long)
    for number, other in enumerate(others, start=1):
        index.masked_fill_(other < lowest, number)
        lowest = torch.minimum(lowest, other)
    return index


def _neighbours(count: int, rows: int, columns: int, device: torch.device) -> Tensor:
    """Squares around each square ``(I * R * C, 9)``; at the border some come twice."""
    row = torch.arange(rows, device=device)[:, None] + torch.arange(-1, 2, device=device)
    column = torch.arange(columns, device=device)[:, None] + torch.arange(-1, 2, device=device)
    row, column = row.clamp(0, rows - 1), column.clamp(0, columns - 1)
    one = row[:, None, :, None] * columns + column[None, :, None, :]
    image = torch.arange(count, device=device) * rows * columns
    return (image[:, None, None] + one.view(1, -1, 9)).view(-1, 9)


def _means(squares_SP5: Tensor, label_SP: Tensor, before_S5: Tensor) -> Tensor:
    """Mean of each superpixel's pixels; one that lost all of them stays where it was."""
    label = label_SP.flatten()
    total = torch.zeros_like(before_S5).index_add_(0, label, squares_SP5.flatten(0, 1))
    number = torch.bincount(label, minlength=len(before_S5))[:, None]
    return torch.where(number > 0, total / number.clamp(min=1), before_S5)
