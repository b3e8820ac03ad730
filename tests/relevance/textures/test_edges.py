"""Edge channels against scikit-image and by hand."""

import numpy as np
import pytest
import torch
from skimage.filters import sobel

from lightning_arrcoc.relevance.textures import CELL_PX


@pytest.mark.parametrize(("channel", "axis"), [("edge_x", 1), ("edge_y", 0), ("edge_mean", None)])
def test_edges_agree_with_scikit_images_sobel(
    channel, axis, picture, photograph, measure, mean_of_cells, luma_of
):
    for image in (picture(), photograph):
        expected = mean_of_cells(np.abs(sobel(luma_of(image[0]), axis=axis, mode="nearest")))
        torch.testing.assert_close(measure(image)[channel][0], expected, atol=1e-5, rtol=0)


def test_the_peak_is_the_largest_of_scikit_images_sobel(photograph, measure, luma_of):
    edges = sobel(luma_of(photograph[0]), mode="nearest")
    largest = edges.reshape(8, CELL_PX, 12, CELL_PX).max((1, 3))
    found = measure(photograph)["edge_peak"][0]
    torch.testing.assert_close(found, torch.from_numpy(largest).float(), atol=1e-5, rtol=0)


def test_a_step_from_black_to_white_is_an_edge_across_columns_by_hand(grey, measure):
    pixels = torch.zeros(CELL_PX, CELL_PX)
    pixels[:, 16:] = 1
    measured = measure(grey(pixels))
    # Columns 15 and 16 answer 1 in every row, the other 30 answer 0.
    assert measured["edge_x"].item() == pytest.approx(2 / 32)
    assert measured["edge_y"].item() == pytest.approx(0, abs=1e-6)
    assert measured["edge_mean"].item() == pytest.approx(2 / 32 / 2**0.5)
    assert measured["edge_peak"].item() == pytest.approx(1 / 2**0.5)
    turned = measure(grey(pixels.T))
    assert turned["edge_y"].item() == pytest.approx(2 / 32)
    assert turned["edge_x"].item() == pytest.approx(0, abs=1e-6)
