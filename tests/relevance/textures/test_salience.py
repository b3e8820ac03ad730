"""Salience, strokes and edge distance against scipy and scikit-image, and by hand."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.color import rgb2lab
from skimage.morphology import black_tophat, white_tophat

from lightning_arrcoc.relevance.textures import CELL_PX
from lightning_arrcoc.relevance.textures.picture import sobel
from lightning_arrcoc.relevance.textures.salience import dilate


@pytest.mark.parametrize("source", ["drawn", "photograph"])
def test_saliency_agrees_with_blurs_by_scipy(source, picture, photograph, measure):
    image = picture(3, 4) if source == "drawn" else photograph
    height, width = image.shape[-2:]
    lab = rgb2lab(image[0].double().numpy(), channel_axis=0)
    small = lab.reshape(3, height // 4, 4, width // 4, 4).mean((2, 4))

    def blur(sigma):
        return ndimage.gaussian_filter(
            small, (0, sigma, sigma), mode="nearest", radius=(0, round(2 * sigma), round(2 * sigma))
        )

    scales = [
        np.sqrt(((blur(centre) - blur(surround)) ** 2).sum(0))
        for centre, surround in ((1, 4), (2, 8), (4, 16))
    ]
    mean = np.mean(scales, axis=0) / 100
    expected = mean.reshape(height // 32, 8, width // 32, 8).mean((1, 3))
    torch.testing.assert_close(
        measure(image)["saliency"][0], torch.from_numpy(expected).float(), atol=1e-4, rtol=0
    )
    assert expected.max() > 0.1


def test_the_cell_that_differs_is_the_most_salient(measure):
    image = torch.full((1, 3, 5 * CELL_PX, 7 * CELL_PX), 0.4)
    image[0, 0, 3 * CELL_PX : 4 * CELL_PX, 2 * CELL_PX : 3 * CELL_PX] = 0.9
    assert measure(image)["saliency"][0].argmax() == 3 * 7 + 2


@pytest.mark.parametrize("side", [3, 5])
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (16, 24)])
def test_dilation_agrees_with_scipy(side, size):
    maps = torch.randn(2, *size, generator=torch.Generator().manual_seed(0))
    expected = [ndimage.maximum_filter(one.numpy(), side, mode="nearest") for one in maps]
    assert dilate(maps, side).equal(torch.from_numpy(np.stack(expected)))


def test_text_agrees_with_scikit_images_top_hats(photograph, measure, luma_of, mean_of_cells):
    halved = luma_of(photograph[0]).reshape(128, 2, 192, 2).mean((1, 3))
    square = np.ones((5, 5))
    hat = np.maximum(white_tophat(halved, square), black_tophat(halved, square))
    expected = mean_of_cells(hat, CELL_PX // 2)
    torch.testing.assert_close(measure(photograph)["text"][0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("ink", [1.0, -1.0])
@pytest.mark.parametrize(("width_px", "is_stroke"), [(2, True), (8, True), (10, False)])
def test_strokes_below_10_px_are_text_dark_or_bright_by_hand(
    ink, width_px, is_stroke, grey, measure
):
    pixels = torch.full((CELL_PX, CELL_PX), 0.5)
    pixels[10 : 10 + width_px] += 0.4 * ink
    expected = 0.4 * width_px / 32 if is_stroke else 0
    assert measure(grey(pixels))["text"].item() == pytest.approx(expected, abs=1e-6)


def test_a_page_reads_as_text_and_a_ramp_or_a_block_does_not(grey, measure):
    pixels = torch.full((CELL_PX, 3 * CELL_PX), 0.9)
    for column in range(1, 31, 5):
        pixels[4:28, column : column + 2] = 0.1
    pixels[:, 32:64] = torch.linspace(0.9, 0.1, CELL_PX)
    pixels[:, 64:] = 0.1
    page, ramp, block = measure(grey(pixels))["text"][0, 0].tolist()
    assert page > 10 * max(ramp, block)


def test_distance_to_one_edge_by_hand(grey, measure):
    pixels = torch.zeros(CELL_PX, 3 * CELL_PX)
    pixels[:, 16:] = 1  # Sobel answers in columns 15 and 16: steps 3 and 4 of 4 px
    distance = measure(grey(pixels))["edge_distance"][0, 0].tolist()
    # Steps 0 to 7 lie 3 2 1 0 0 1 2 3 away, then 4 and 5 and so on, at most 8; each of 8.
    assert distance[0] == pytest.approx((3 + 2 + 1 + 0 + 0 + 1 + 2 + 3) / 8 / 8)
    assert distance[1] == pytest.approx((4 + 5 + 6 + 7 + 4 * 8) / 8 / 8)
    assert distance[2] == 1


def test_edge_distance_agrees_with_scipys_chessboard(photograph, measure):
    # Darkened, so that few pixels are edges.
    image = photograph * 0.2
    luma = torch.einsum("c,ichw->ihw", torch.tensor([0.299, 0.587, 0.114]), image)
    edge = torch.linalg.vector_norm(sobel(luma), dim=1)[0] / 2**0.5 >= 0.1
    near = edge.view(64, 4, 96, 4).amax((1, 3)).numpy()
    steps = ndimage.distance_transform_cdt(~near, metric="chessboard").clip(max=8) / 8
    expected = torch.from_numpy(steps.reshape(8, 8, 12, 8).mean((1, 3))).float()
    found = measure(image)["edge_distance"][0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert found.min() > 0
    assert found.max() == 1
    assert len(found.unique()) > 10


def test_an_image_without_edges_is_far_from_them(measure):
    assert (measure(torch.full((1, 3, 64, 96), 0.3))["edge_distance"] == 1).all()
