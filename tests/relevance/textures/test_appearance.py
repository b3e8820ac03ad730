"""Appearance channels against scipy's DCT and by hand."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from skimage.color import rgb2lab

from lightning_arrcoc.relevance.textures import CELL_PX

ORDERS = [(row, column) for row in range(4) for column in range(4) if row or column]


def strongest(row, column):
    """The most that a coefficient can be for luma in [0, 1]."""
    wave = np.zeros((CELL_PX, CELL_PX))
    side = (np.arange(CELL_PX) + 0.5) * np.pi / CELL_PX
    wave = np.outer(np.cos(row * side), np.cos(column * side))
    return wave.clip(min=0).sum()


@pytest.mark.parametrize(("row", "column"), ORDERS)
def test_waves_agree_with_scipys_dct(row, column, photograph, measure, luma_of):
    cells = luma_of(photograph[0]).reshape(8, CELL_PX, 12, CELL_PX)
    # scipy's unnormalised DCT-II doubles along either axis.
    waves = dctn(cells, axes=(1, 3))[:, row, :, column] / 4 / strongest(row, column)
    found = measure(photograph)[f"dct_{row}{column}"][0]
    torch.testing.assert_close(found, torch.from_numpy(waves).float(), atol=1e-5, rtol=0)
    assert found.abs().max() > 0.01


@pytest.mark.parametrize(("row", "column"), ORDERS)
def test_the_range_of_a_wave_ends_where_luma_can_follow_it_best(row, column, grey, measure):
    side = (torch.arange(CELL_PX) + 0.5) * torch.pi / CELL_PX
    follows = (torch.outer((row * side).cos(), (column * side).cos()) > 0).float()
    name = f"dct_{row}{column}"
    assert measure(grey(follows))[name].item() == pytest.approx(1, abs=1e-5)
    assert measure(grey(1 - follows))[name].item() == pytest.approx(-1, abs=1e-5)


def test_a_light_top_and_a_light_left_are_told_apart_by_hand(grey, measure):
    top = torch.zeros(CELL_PX, CELL_PX)
    top[:16] = 1
    measured = measure(grey(top)), measure(grey(top.T))
    assert measured[0]["dct_10"].item() == pytest.approx(1, abs=1e-5)
    assert measured[0]["dct_01"].item() == pytest.approx(0, abs=1e-5)
    assert measured[1]["dct_01"].item() == pytest.approx(1, abs=1e-5)
    assert measured[1]["dct_10"].item() == pytest.approx(0, abs=1e-5)


def test_chroma_agrees_with_scikit_image(picture, photograph, measure):
    for image in (picture(), photograph):
        rows, columns = (side // CELL_PX for side in image.shape[-2:])
        lab = rgb2lab(image[0].double().numpy(), channel_axis=0)
        cells = lab[1:].reshape(2, rows, CELL_PX, columns, CELL_PX)
        expected = torch.from_numpy(np.sqrt(cells.var((2, 4)).sum(0)) / 128).float()
        torch.testing.assert_close(measure(image)["chroma"][0], expected, atol=5e-4, rtol=0)
        assert expected.max() > 0.05


def test_one_colour_has_no_chroma_however_strong_and_two_have():
    from lightning_arrcoc.relevance.textures import TextureGenerator

    texture = TextureGenerator("full")
    image = torch.zeros(1, 3, CELL_PX, 2 * CELL_PX)
    image[:, 0] = 1
    image[:, 0, :, -16:] = 0
    image[:, 2, :, -16:] = 1
    one, two = texture(image)[0, texture.index("chroma"), 0].tolist()
    assert one == pytest.approx(0, abs=1e-5)
    # Red (80.09, 67.20) and blue (79.19, -107.86): deviations 0.45 and 87.53.
    assert two == pytest.approx((0.45**2 + 87.53**2) ** 0.5 / 128, abs=1e-3)
