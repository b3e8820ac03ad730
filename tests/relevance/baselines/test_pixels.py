"""Choices by pixels: edges, surprise and difference, each by a picture worked out by hand."""

import pytest
import torch

from lightning_arrcoc.relevance.allocation import keep_top
from lightning_arrcoc.relevance.baselines import DivPruneLike, EdgeSaliency, PixelPruneLike
from lightning_arrcoc.relevance.baselines.pixels import cells_of
from lightning_arrcoc.relevance.textures import CELL_PX

LOOKING = {"edges": EdgeSaliency, "pixelprune": PixelPruneLike, "divprune": DivPruneLike}
QUERY, MASK = torch.zeros(1, 1, 6), torch.ones(1, 1, dtype=torch.bool)


def picture(*cells, columns):
    """Grey levels of cells in raster order -> ``(1, 3, h, w)``."""
    grey = torch.tensor(cells, dtype=torch.float32).view(-1, columns)
    pixels = grey.repeat_interleave(CELL_PX, 0).repeat_interleave(CELL_PX, 1)
    return pixels.expand(1, 3, -1, -1).clone()


def order(selector, images):
    """Cells from the first to be kept to the last."""
    return selector.relevance_of(images)[0].flatten().argsort(descending=True, stable=True).tolist()


@pytest.mark.parametrize("make", LOOKING.values(), ids=LOOKING)
def test_without_pixels_they_say_so(make):
    with pytest.raises(ValueError, match="needs pixels, but only textures"):
        make()(None, QUERY, MASK, torch.zeros(1, 13, 2, 2))


@pytest.mark.parametrize("make", LOOKING.values(), ids=LOOKING)
def test_a_neighbour_in_the_batch_changes_nothing(make):
    images = torch.rand(3, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    together = make().relevance_of(images)
    for i in range(3):
        torch.testing.assert_close(make().relevance_of(images[i : i + 1])[0], together[i])


@pytest.mark.parametrize("make", LOOKING.values(), ids=LOOKING)
@pytest.mark.parametrize("grey", [0.0, 1.0])
def test_a_flat_image_gives_finite_numbers(make, grey):
    images = torch.full((1, 3, 64, 64), grey)
    assert make().relevance_of(images).isfinite().all()


def test_a_cell_is_its_pixels():
    image = torch.arange(3 * 64 * 64).view(1, 3, 64, 64).float()
    cells = cells_of(image, 1)
    assert cells.shape == (1, 2, 2, 3 * CELL_PX**2)
    assert cells[0, 1, 0].equal(image[0, :, 32:, :32].flatten())
    assert cells_of(image, 4)[0, 0, 1, 0].item() == image[0, 0, :4, 32:36].mean().item()


def test_edges_come_first_where_there_are_any():
    image = picture(0, 0, 0, 0, columns=2)
    image[..., 40:44, 8:24] = 1.0
    assert order(EdgeSaliency(), image)[0] == 2


def test_what_neighbours_predict_comes_last():
    """A copy of the cell to the left, above or left above is no news; a new grey is."""
    image = picture(
        0.2, 0.2, 0.7,
        0.2, 0.9, 0.7,
        0.4, 0.2, 0.9,
        columns=3,
    )  # fmt: skip
    found = PixelPruneLike().relevance_of(image)[0]
    torch.testing.assert_close(
        found,
        torch.tensor([[2.0, 0.0, 0.5], [0.0, 0.7, 0.0], [0.2, 0.0, 0.0]]),
    )


def test_a_single_pixel_is_news():
    image = picture(0.5, 0.5, columns=2)
    image[0, 1, 3, 40] = 0.75
    assert PixelPruneLike().relevance_of(image)[0, 0, 1].item() == pytest.approx(0.25)


def test_look_alikes_come_after_what_is_different():
    """Six cells of three greys: the first three that are kept show all of them."""
    image = picture(0.0, 0.0, 0.0, 0.5, 0.0, 1.0, columns=3)
    kept = keep_top(DivPruneLike().relevance_of(image)[0].flatten(), 3)
    greys = {image[0, 0, 32 * (i // 3), 32 * (i % 3)].item() for i in kept.tolist()}
    assert greys == {0.0, 0.5, 1.0}
