"""Detail channels against scipy and scikit-image, and by hand."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.measure import shannon_entropy

from lightning_arrcoc.relevance.knowing import PRIOR_MARGIN
from lightning_arrcoc.relevance.textures import CELL_PX


def gaussian(pixels_hw, sigma):
    return ndimage.gaussian_filter(pixels_hw, sigma, mode="nearest", radius=round(2 * sigma))


def test_high_pass_agrees_with_scipy(picture, photograph, measure, mean_of_cells, luma_of):
    for image in (picture(), photograph):
        luma = luma_of(image[0])
        expected = mean_of_cells(np.abs(luma - gaussian(luma, 2.0)))
        torch.testing.assert_close(measure(image)["high_pass"][0], expected, atol=1e-5, rtol=0)
        assert expected.max() > 0.02


def test_low_pass_agrees_with_scipy_at_every_pixel(photograph, measure, mean_of_cells, luma_of):
    expected = mean_of_cells(gaussian(luma_of(photograph[0]), 8.0))
    torch.testing.assert_close(measure(photograph)["low_pass"][0], expected, atol=1e-5, rtol=0)


def test_low_pass_sees_beyond_its_own_cell(grey, measure):
    pixels = torch.zeros(CELL_PX, 3 * CELL_PX)
    pixels[:, CELL_PX : 2 * CELL_PX] = 1
    left, middle, right = measure(grey(pixels))["low_pass"][0, 0].tolist()
    assert left == pytest.approx(right, abs=1e-6)
    assert 0.05 < left < 0.3
    assert middle + left + right == pytest.approx(1, abs=1e-5)  # a blur keeps the light


def test_contrast_is_twice_the_standard_deviation_by_hand(grey, measure):
    pixels = torch.full((CELL_PX, 3 * CELL_PX), 0.5)
    pixels[:16, :CELL_PX] = 0.0  # half black,
    pixels[16:, :CELL_PX] = 1.0  # half white: deviation 0.5
    pixels[::4, CELL_PX : 2 * CELL_PX] = 0.9  # a quarter 0.4 brighter: 0.4 * sqrt(1/4 * 3/4)
    half, quarter, flat = measure(grey(pixels))["contrast"][0, 0].tolist()
    assert half == pytest.approx(1.0, abs=1e-4)
    assert quarter == pytest.approx(2 * 0.4 * (3 / 16) ** 0.5, abs=1e-4)
    assert flat == pytest.approx(0.0, abs=PRIOR_MARGIN)


def test_entropy_counts_equally_frequent_levels_by_hand(grey, measure):
    pixels = torch.empty(CELL_PX, 4 * CELL_PX)
    pixels[:, :32] = 0.5  # one level: 0 bit
    pixels[:, 32:64] = (torch.arange(32) % 2 * 0.5 + 0.25)[None]  # two: 1 of 5 bit
    pixels[:, 64:96] = (torch.arange(32) // 4 / 8 + 0.05)[None]  # eight: 3 of 5 bit
    pixels[:, 96:] = ((torch.arange(32) + 0.5) / 32)[None]  # all of them
    found = measure(grey(pixels))["entropy"][0, 0].tolist()
    assert found == pytest.approx([0, 0.2, 0.6, 1], abs=1e-6)


def test_entropy_agrees_with_scikit_image(photograph, measure, luma_of):
    levels = np.floor(luma_of(photograph[0]) * 32 + 1e-6).clip(0, 31)
    cells = levels.reshape(8, CELL_PX, 12, CELL_PX).swapaxes(1, 2)
    expected = torch.tensor([[shannon_entropy(cell, base=2) / 5 for cell in row] for row in cells])
    # Luma that falls on the border of two levels may be rounded to either.
    torch.testing.assert_close(
        measure(photograph)["entropy"][0], expected.float(), atol=5e-3, rtol=0
    )
