"""Superpixels against a plain implementation, and boundaries by hand."""

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab

from lightning_arrcoc.relevance.textures import CELL_PX
from lightning_arrcoc.relevance.textures.regions import (
    COMPACTNESS,
    ROUNDS,
    SPACING,
    first_lowest,
    superpixels,
)


def plainly(lab_3hw):
    """Superpixels with loops over pixels, in float64."""
    _, height, width = lab_3hw.shape
    rows, columns = height // SPACING, width // SPACING
    y, x = np.mgrid[:height, :width] * (COMPACTNESS / SPACING)
    pixels = np.stack([*lab_3hw, y, x], -1)
    centres = pixels.reshape(rows, SPACING, columns, SPACING, 5).mean((1, 3))
    label = np.zeros((height, width), dtype=int)
    for _ in range(ROUNDS):
        for row, column in np.ndindex(height, width):
            around = [
                (r, c)
                for r in range(row // SPACING - 1, row // SPACING + 2)
                for c in range(column // SPACING - 1, column // SPACING + 2)
                if 0 <= r < rows and 0 <= c < columns
            ]
            best = min(around, key=lambda at: ((pixels[row, column] - centres[at]) ** 2).sum())
            label[row, column] = best[0] * columns + best[1]
        for number in np.unique(label):
            centres[number // columns, number % columns] = pixels[label == number].mean(0)
    return label, centres.reshape(-1, 5)


def test_superpixels_agree_with_a_plain_implementation(photograph):
    random = np.random.default_rng(0)
    pixels = photograph[0, :, 32:64, 96:144].double().numpy()
    pixels = (pixels + 0.02 * random.random(pixels.shape)).clip(0, 1)  # no two distances equal
    lab = rgb2lab(pixels, channel_axis=0)
    expected_label, expected_centres = plainly(lab)
    label, centres = superpixels(torch.from_numpy(lab).float()[None])
    assert label[0].equal(torch.from_numpy(expected_label))
    torch.testing.assert_close(
        centres[0], torch.from_numpy(expected_centres).float(), atol=1e-3, rtol=0
    )


def test_the_first_of_equal_distances_wins():
    distance = torch.tensor([[3.0, 1.0, 2.0], [1.0, 1.0, 2.0], [1.0, 0.5, 2.0]])[None]
    assert first_lowest(distance).tolist() == [[1, 2, 0]]
    assert first_lowest(distance).equal(distance.argmin(1))


@pytest.mark.parametrize(("step", "share"), [(0.5, 1 / 8), (0.002, 0)])
def test_two_colours_meet_in_one_line_if_they_differ_noticeably(step, share, grey, measure):
    pixels = torch.full((CELL_PX, 3 * CELL_PX), 0.25)
    pixels[:, CELL_PX + 16 :] += step
    # One of the eight steps of 4 px has the other colour on its right.
    assert measure(grey(pixels))["boundary"][0, 0].tolist() == pytest.approx([0, share, 0])


def test_a_boundary_between_cells_belongs_to_the_upper_left_one(grey, measure):
    pixels = torch.zeros(2 * CELL_PX, 2 * CELL_PX)
    pixels[CELL_PX:] = 1
    assert measure(grey(pixels))["boundary"][0].flatten().tolist() == [1 / 8, 1 / 8, 0, 0]


def test_colours_of_one_lightness_meet_too(measure):
    image = torch.full((1, 3, CELL_PX, CELL_PX), 0.5)
    image[:, 0, :, 16:] += 0.3
    image[:, 1, :, 16:] -= 0.13
    assert measure(image)["boundary"].item() >= 1 / 8
