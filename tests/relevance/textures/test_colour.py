"""Colour channels, and the looked-up CIELAB that several groups are measured on."""

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab

from lightning_arrcoc.relevance.textures.picture import lab

# Of the range, for a cell. Each of the two tables of 65536 steps leaves up to half a step, which
# weighs most in dark colours: 7.787 x 500 / 131072 = 0.03 for either root of a, 0.06 of 128.
LOOKED_UP = 5e-4


def test_red_green_and_blue_are_the_mean_colour_of_each_cell(picture, measure, mean_of_cells):
    measured = measure(picture())
    for name, plane in zip(("red", "green", "blue"), picture()[0], strict=True):
        torch.testing.assert_close(measured[name][0], mean_of_cells(plane), atol=1e-5, rtol=0)


@pytest.mark.parametrize("source", ["drawn", "photograph"])
def test_lab_agrees_with_scikit_image(source, picture, photograph, measure, mean_of_cells):
    image = picture() if source == "drawn" else photograph
    expected = rgb2lab(image[0].double().numpy(), channel_axis=0, illuminant="D65")
    measured = measure(image)
    for name, plane, most in zip(("L", "a", "b"), expected, (100, 128, 128), strict=True):
        cells = mean_of_cells(plane / most)
        torch.testing.assert_close(measured[name][0], cells, atol=LOOKED_UP, rtol=0)
        assert cells.abs().max() > 0.1  # the picture is coloured enough to tell


@pytest.mark.parametrize("brightest", [1.0, 0.1, 0.01])
def test_every_pixel_of_lab_is_as_exact_as_it_says(brightest):
    random = torch.Generator().manual_seed(0)
    image = brightest * torch.rand(1, 3, 256, 256, generator=random)
    expected = rgb2lab(image[0].double().numpy(), channel_axis=0, illuminant="D65")
    error = lab(image)[0].double().numpy() - expected
    assert np.abs(error[0]).max() < 0.01
    assert np.abs(error[1:]).max() < 0.07
    assert np.abs(error.mean((1, 2))).max() < 1e-3  # at random, not to one side


def test_lab_of_known_colours():
    # As commonly tabled for the sRGB primaries.
    colours = {
        (0, 0, 0): (0, 0, 0),
        (1, 1, 1): (100, 0, 0),
        (1, 0, 0): (53.24, 80.09, 67.20),
        (0, 1, 0): (87.74, -86.18, 83.18),
        (0, 0, 1): (32.30, 79.19, -107.86),
    }
    for colour, expected in colours.items():
        pixel = torch.tensor(colour, dtype=torch.float32).view(1, 3, 1, 1)
        assert lab(pixel).flatten().tolist() == pytest.approx(expected, abs=0.1), colour


def test_a_colour_outside_the_range_counts_as_the_end_of_it():
    # Taking a processor's mean and std off again leaves rounding beyond 0 and 1.
    outside = torch.tensor([-0.01, 1.01, 0.5]).view(1, 3, 1, 1)
    assert lab(outside).equal(lab(outside.clamp(0, 1)))
