"""Textures say what is in each cell, wherever it lies and whatever stands beside it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.color import rgb2lab
from skimage.filters import sobel

from lightning_arrcoc.relevance.knowing import PRIOR_MARGIN
from lightning_arrcoc.relevance.textures import CELL_PX, CORE, TextureGenerator

TEXTURE = TextureGenerator()
LINE_PX = 2
# Derandomized: the same examples in every run, and no example database in the repository.
property_of = settings(deadline=None, max_examples=25, derandomize=True)


def measure(images_I3hw):
    """Channel name -> ``(I, H, W)``."""
    return {
        channel.name: values
        for channel, values in zip(TEXTURE.channels, TEXTURE(images_I3hw).unbind(1), strict=True)
    }


def mean_of_cells(pixels_hw):
    """The reference's own pooling, in float64."""
    height, width = pixels_hw.shape
    cells = np.asarray(pixels_hw, dtype=np.float64).reshape(
        height // CELL_PX, CELL_PX, width // CELL_PX, CELL_PX
    )
    return torch.from_numpy(cells.mean((1, 3))).float()


def luma_of(image_3hw):
    red, green, blue = image_3hw.double().numpy()
    return 0.299 * red + 0.587 * green + 0.114 * blue


def grey(pixels_hw):
    """A grey picture ``(1, 3, h, w)``."""
    return torch.as_tensor(pixels_hw, dtype=torch.float32).expand(1, 3, -1, -1)


def picture(rows=2, columns=3, seed=0):
    """A picture ``(1, 3, h, w)`` with flat patches, ramps, a sharp frame and noise."""
    random = torch.Generator().manual_seed(seed)
    height, width = rows * CELL_PX, columns * CELL_PX
    image = torch.rand(3, 1, 1, generator=random).expand(3, height, width).clone()
    image[:, : height // 2] *= torch.linspace(0, 1, width)
    image[0, height // 3 : height // 2, width // 4 : width // 2] = 1
    image[:, -20:, -20:] = torch.rand(3, 20, 20, generator=random)
    return image[None]


# ------------------------------------------------------------------------- what is measured


def test_the_core_table_has_13_channels_in_the_order_of_the_output():
    assert TEXTURE.out_channels == len(TEXTURE.channels) == 13
    assert TEXTURE(picture()).shape == (1, 13, 2, 3)
    assert [TEXTURE.index(channel.name) for channel in CORE] == list(range(13))


def test_colour_channels_are_the_mean_colour_of_each_cell():
    image = picture()
    measured = measure(image)
    for name, plane in zip(("red", "green", "blue"), image[0], strict=True):
        torch.testing.assert_close(measured[name][0], mean_of_cells(plane), atol=1e-5, rtol=0)


def test_lab_agrees_with_scikit_image():
    image = picture()
    lab = rgb2lab(image[0].double().numpy(), channel_axis=0, illuminant="D65")
    measured = measure(image)
    expected_l, expected_a = mean_of_cells(lab[0] / 100), mean_of_cells(lab[1] / 128)
    torch.testing.assert_close(measured["L"][0], expected_l, atol=2e-4, rtol=0)
    torch.testing.assert_close(measured["a"][0], expected_a, atol=2e-4, rtol=0)
    assert expected_a.abs().max() > 0.1  # the picture is coloured enough to tell


@pytest.mark.parametrize(("channel", "axis"), [("edge_x", 1), ("edge_y", 0), ("edge_mean", None)])
def test_edges_agree_with_scikit_images_sobel(channel, axis):
    image = picture()
    expected = mean_of_cells(np.abs(sobel(luma_of(image[0]), axis=axis, mode="nearest")))
    torch.testing.assert_close(measure(image)[channel][0], expected, atol=1e-5, rtol=0)


def test_a_step_from_black_to_white_is_an_edge_across_columns_by_hand():
    pixels = torch.zeros(CELL_PX, CELL_PX)
    pixels[:, 16:] = 1
    measured = measure(grey(pixels))
    # Columns 15 and 16 answer 1 in every row, the other 30 answer 0.
    assert measured["edge_x"].item() == pytest.approx(2 / 32)
    assert measured["edge_y"].item() == pytest.approx(0, abs=1e-6)
    assert measured["edge_mean"].item() == pytest.approx(2 / 32 / 2**0.5)


def test_contrast_is_twice_the_standard_deviation_by_hand():
    pixels = torch.full((CELL_PX, 3 * CELL_PX), 0.5)
    pixels[:16, :CELL_PX] = 0.0  # half black,
    pixels[16:, :CELL_PX] = 1.0  # half white: deviation 0.5
    pixels[::4, CELL_PX : 2 * CELL_PX] = 0.9  # a quarter 0.4 brighter: 0.4 * sqrt(1/4 * 3/4)
    half, quarter, flat = measure(grey(pixels))["contrast"][0, 0].tolist()
    assert half == pytest.approx(1.0, abs=1e-4)
    assert quarter == pytest.approx(2 * 0.4 * (3 / 16) ** 0.5, abs=1e-4)
    assert flat == pytest.approx(0.0, abs=PRIOR_MARGIN)


def test_places_by_hand():
    measured = measure(torch.zeros(1, 3, 2 * CELL_PX, 4 * CELL_PX))
    assert measured["y"][0].tolist() == [[0.25] * 4, [0.75] * 4]
    assert measured["x"][0].tolist() == [[0.125, 0.375, 0.625, 0.875]] * 2
    # In cells from the middle (1, 2): rows 0.5, columns 1.5 or 0.5; half the diagonal sqrt(5).
    outer, inner = (2.5 / 5) ** 0.5, (0.5 / 5) ** 0.5
    expected = torch.tensor([[outer, inner, inner, outer]] * 2)
    torch.testing.assert_close(measured["eccentricity"][0], expected)


def test_the_middle_cell_has_no_eccentricity():
    eccentricity = measure(torch.zeros(1, 3, 3 * CELL_PX, 5 * CELL_PX))["eccentricity"][0]
    assert eccentricity[1, 2] == 0
    assert eccentricity.count_nonzero() == 14


def test_saliency_agrees_with_blurs_by_scipy():
    image = picture(3, 4)
    lab = rgb2lab(image[0].double().numpy(), channel_axis=0)
    small = lab.reshape(3, 24, 4, 32, 4).mean((2, 4))

    def blur(sigma):
        return ndimage.gaussian_filter(
            small, (0, sigma, sigma), mode="nearest", radius=(0, round(2 * sigma), round(2 * sigma))
        )

    scales = [
        np.sqrt(((blur(centre) - blur(surround)) ** 2).sum(0))
        for centre, surround in ((1, 4), (2, 8), (4, 16))
    ]
    expected = np.mean(scales, axis=0).reshape(3, 8, 4, 8).mean((1, 3)) / 100
    torch.testing.assert_close(
        measure(image)["saliency"][0], torch.from_numpy(expected).float(), atol=1e-3, rtol=0
    )


def test_the_cell_that_differs_is_the_most_salient():
    image = torch.full((1, 3, 5 * CELL_PX, 7 * CELL_PX), 0.4)
    image[0, 0, 3 * CELL_PX : 4 * CELL_PX, 2 * CELL_PX : 3 * CELL_PX] = 0.9
    assert measure(image)["saliency"][0].argmax() == 3 * 7 + 2


# ---------------------------------------------------------------------- guarantees over images


@pytest.mark.parametrize("ink", [1.0, 0.25])
@pytest.mark.parametrize("channel", ["edge_x", "edge_y"])
def test_a_line_of_2_px_is_seen_in_every_cell_that_it_crosses_and_nowhere_else(channel, ink):
    side = 3 * CELL_PX
    offsets = range(side - LINE_PX + 1)
    pixels = torch.zeros(len(offsets), side, side)
    for offset in offsets:
        pixels[offset, offset : offset + LINE_PX] = ink
    if channel == "edge_x":
        pixels = pixels.mT
    edges = measure(pixels[:, None].expand(-1, 3, -1, -1))[channel]
    for offset, edge in zip(offsets, edges if channel == "edge_y" else edges.mT, strict=True):
        for stripe in {row // CELL_PX for row in range(offset, offset + LINE_PX)}:
            # At least two of the stripe's 32 pixel rows answer with the line's full step.
            assert edge[stripe].min() > ink * 2 / 32 - 1e-6, offset
        near = {row // CELL_PX for row in range(offset - 1, offset + LINE_PX + 1)}
        for stripe in set(range(3)) - near:
            assert edge[stripe].max() < 1e-6, offset


@pytest.mark.parametrize("colour", [(0, 0, 0), (1, 1, 1), (0.3, 0.3, 0.3), (0.7, 0.2, 0.9)])
def test_a_flat_image_has_neither_edges_nor_salience_and_no_nan(colour):
    image = torch.tensor(colour, dtype=torch.float32)[None, :, None, None].expand(1, 3, 64, 96)
    measured = measure(image)
    assert all(values.isfinite().all() for values in measured.values())
    for name in ("edge_x", "edge_y", "edge_mean", "saliency"):
        assert measured[name].max() < 1e-6, name
    assert measured["contrast"].max() < PRIOR_MARGIN  # rounding, too little for the prior to see


@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    seed=st.integers(0, 2**31),
    hardness=st.sampled_from(["noise", "only black or white", "pure colours, 8 px"]),
)
@property_of
def test_every_channel_stays_in_its_documented_range(rows, columns, seed, hardness):
    random = torch.Generator().manual_seed(seed)
    image = torch.rand(1, 3, rows * CELL_PX, columns * CELL_PX, generator=random)
    if hardness == "only black or white":
        image = image[:, :1].expand(-1, 3, -1, -1).round()
    elif hardness == "pure colours, 8 px":
        image = image[..., ::8, ::8].round().repeat_interleave(8, -1).repeat_interleave(8, -2)
    textures = TEXTURE(image)
    assert textures.shape == (1, 13, rows, columns)
    assert textures.dtype == torch.float32
    for channel, values in zip(TEXTURE.channels, textures[0], strict=True):
        assert values.min() >= channel.low - 1e-5, channel
        assert values.max() <= channel.high + 1e-5, channel


@pytest.mark.parametrize(
    ("channel", "image"),
    [
        ("L", torch.ones(1, 3, 64, 64)),
        ("a", torch.tensor([1.0, 0, 1])[None, :, None, None].expand(1, 3, 64, 64)),
        ("edge_x", grey((torch.arange(64) % 4 < 2).float().expand(64, 64))),
        ("edge_y", grey((torch.arange(64) % 4 < 2).float().expand(64, 64).T)),
    ],
    ids=["L", "a", "edge_x", "edge_y"],
)
def test_ranges_are_used_to_the_full(channel, image):
    reached = measure(image)[channel].max()
    assert reached > (0.7 if channel == "a" else 0.95)  # sRGB itself ends at a = 98 of 128


def test_a_neighbour_in_the_batch_changes_nothing():
    images = torch.cat([picture(seed=seed) for seed in range(3)] + [torch.ones(1, 3, 64, 96)])
    together = TEXTURE(images)
    for image, textures in zip(images, together, strict=True):
        torch.testing.assert_close(TEXTURE(image[None])[0], textures, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 9), (9, 1), (2, 5)])
def test_any_aspect_works(rows, columns):
    textures = TEXTURE(picture(rows, columns))
    assert textures.shape == (1, 13, rows, columns)
    assert textures.isfinite().all()


def test_nothing_is_tracked_or_learned():
    assert not TEXTURE(picture().requires_grad_()).requires_grad
    assert not list(TEXTURE.parameters())
    assert not TEXTURE.state_dict()


def test_half_precision_around_it_changes_nothing():
    image = picture()
    with torch.autocast("cpu", torch.bfloat16):
        textures = TEXTURE(image)
    assert textures.equal(TEXTURE(image))


# --------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("size", [(33, 64), (64, 31), (16, 16), (0, 32)])
def test_a_size_that_is_no_whole_number_of_cells_is_refused(size):
    with pytest.raises(ValueError, match=rf"{size[0]}x{size[1]} px; expected multiples of 32"):
        TEXTURE(torch.zeros(1, 3, *size))


def test_an_unknown_channel_table_is_refused():
    with pytest.raises(ValueError, match="channels='everything'; choose one of core"):
        TextureGenerator("everything")


def test_an_unknown_channel_is_refused_with_the_known_ones():
    with pytest.raises(KeyError, match=r"No channel 'smell'; there are red, green"):
        TEXTURE.index("smell")
