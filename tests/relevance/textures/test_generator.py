"""What holds for all channels: lines are seen, flats are flat, neighbours do not matter."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_arrcoc.relevance.knowing import PRIOR_MARGIN, InformationScorer
from lightning_arrcoc.relevance.textures import CELL_PX, Previous, TextureGenerator

TEXTURE = TextureGenerator("full")
NAMES = [channel.name for channel in TEXTURE.channels]
LINE_PX = 2
SILENT_ON_FLATS = (
    "edge_x", "edge_y", "edge_mean", "edge_peak", "high_pass", "contrast", "entropy", "saliency",
    "text", "boundary", "motion", "previous_saliency", "previous_relevance", "chroma",
    *(name for name in NAMES if name.startswith("dct_")),
)  # fmt: skip
# Derandomized: the same examples in every run, and no example database in the repository.
property_of = settings(deadline=None, max_examples=25, derandomize=True)


# ------------------------------------------------------------------------------ thin lines


@cache
def measured_lines(ink, across):
    """Textures ``(P, C, 3, 3)`` of white or grey lines."""
    return TEXTURE(lines(ink, across))


def lines(ink, across):
    """All places of a line of 2 px in 3x3 cells, black ground ``(P, 3, 96, 96)``."""
    side = 3 * CELL_PX
    offsets = range(side - LINE_PX + 1)
    pixels = torch.zeros(len(offsets), side, side)
    for offset in offsets:
        pixels[offset, offset : offset + LINE_PX] = ink
    pixels = pixels if across == "rows" else pixels.mT
    return pixels[:, None].expand(-1, 3, -1, -1)


@pytest.mark.parametrize("ink", [1.0, 0.25])
@pytest.mark.parametrize("across", ["rows", "columns"])
def test_an_edge_of_a_2_px_line_is_in_every_cell_that_it_crosses_and_nowhere_else(ink, across):
    measured = measured_lines(ink, across)
    edges = measured[:, TEXTURE.index("edge_y" if across == "rows" else "edge_x")]
    for offset, edge in enumerate(edges if across == "rows" else edges.mT):
        for stripe in {row // CELL_PX for row in range(offset, offset + LINE_PX)}:
            # At least two of the stripe's 32 pixel rows answer with the line's full step.
            assert edge[stripe].min() > ink * 2 / 32 - 1e-6, offset
        near = {row // CELL_PX for row in range(offset - 1, offset + LINE_PX + 1)}
        for stripe in set(range(3)) - near:
            assert edge[stripe].max() < 1e-6, offset


@pytest.mark.parametrize("ink", [1.0, 0.25])
@pytest.mark.parametrize("across", ["rows", "columns"])
@pytest.mark.parametrize(
    ("channel", "least"),
    [  # for a white line of which a cell holds one pixel row or column
        ("red", 0.03), ("green", 0.03), ("blue", 0.03), ("L", 0.03),
        ("edge_mean", 0.03), ("edge_peak", 0.7), ("high_pass", 0.015), ("low_pass", 0.01),
        ("contrast", 0.3), ("entropy", 0.03), ("saliency", 0.001), ("text", 0.015),
    ],
)  # fmt: skip
def test_a_2_px_line_is_seen_wherever_it_runs(channel, least, across, ink):
    measured = measured_lines(ink, across)[:, TEXTURE.index(channel)]
    # What counts pixels does so regardless of the ink.
    least = least if channel == "entropy" else least * ink
    for offset, found in enumerate(measured if across == "rows" else measured.mT):
        for stripe in {row // CELL_PX for row in range(offset, offset + LINE_PX)}:
            assert found[stripe].min() > least, offset


@pytest.mark.parametrize("across", ["rows", "columns"])
def test_a_2_px_line_brings_the_edges_near_and_moves_the_slow_waves(across):
    measured = measured_lines(1.0, across)
    found = dict(zip(NAMES, measured.unbind(1), strict=True))
    waves = torch.stack([found[name].abs() for name in NAMES if name.startswith("dct_")]).amax(0)
    for offset in range(len(measured)):
        for stripe in {row // CELL_PX for row in range(offset, offset + LINE_PX)}:
            cells = (offset, stripe) if across == "rows" else (offset, slice(None), stripe)
            assert found["edge_distance"][cells].max() < 0.45, offset
            assert waves[cells].min() > 0.04, offset


def test_a_coloured_line_of_2_px_gives_its_cells_chroma():
    image = lines(1.0, "rows") * torch.tensor([1.0, 0, 0])[:, None, None]
    chroma = TEXTURE(image)[:, TEXTURE.index("chroma")]
    for offset, found in enumerate(chroma):
        for stripe in {row // CELL_PX for row in range(offset, offset + LINE_PX)}:
            assert found[stripe].min() > 0.1, offset


# ----------------------------------------------------------------------------- flat images


@given(
    colour=st.one_of(
        st.integers(0, 32).map(lambda level: [level / 32] * 3),  # borders of entropy's levels
        st.integers(0, 255).map(lambda level: [level / 255] * 3),
        st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3),
    ),
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
)
@settings(deadline=None, max_examples=80, derandomize=True)
def test_a_flat_image_is_silent_and_alike_everywhere(colour, rows, columns):
    image = torch.tensor(colour)[None, :, None, None]
    textures = TEXTURE(image.expand(1, 3, rows * CELL_PX, columns * CELL_PX))
    assert textures.isfinite().all()
    for name, values in zip(NAMES, textures[0], strict=True):
        if name not in ("y", "x", "eccentricity"):
            assert values.max() - values.min() < 1e-5, name
        if name in SILENT_ON_FLATS:
            assert values.abs().max() < 1e-5, name


@pytest.mark.parametrize("channels", ["core", "full"])
@pytest.mark.parametrize("level", [0.0, 0.3, 0.5, 1.0])
def test_information_on_a_flat_image_does_not_depend_on_the_place(channels, level):
    texture = TextureGenerator(channels)
    textures = texture(torch.full((1, 3, 5 * CELL_PX, 7 * CELL_PX), level))
    with torch.no_grad():
        information = InformationScorer(texture.channels)(textures)
    assert information.isfinite().all()
    assert information.unique().numel() == 1
    floor = torch.logit(torch.tensor(PRIOR_MARGIN)).item()
    assert information.max().item() == pytest.approx(floor)


# ------------------------------------------------------------------------- ranges and sizes


@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    seed=st.integers(0, 2**31),
    hardness=st.sampled_from(["noise", "only black or white", "pure colours, 8 px", "dark"]),
    moving=st.booleans(),
)
@property_of
def test_every_channel_stays_in_its_documented_range(rows, columns, seed, hardness, moving):
    random = torch.Generator().manual_seed(seed)
    image = torch.rand(1, 3, rows * CELL_PX, columns * CELL_PX, generator=random)
    if hardness == "only black or white":
        image = image[:, :1].expand(-1, 3, -1, -1).round()
    elif hardness == "pure colours, 8 px":
        image = image[..., ::8, ::8].round().repeat_interleave(8, -1).repeat_interleave(8, -2)
    elif hardness == "dark":
        image = image * 0.01
    maps = torch.rand(2, 1, rows, columns, generator=random)
    previous = Previous(1 - image, maps[0], maps[1]) if moving else None
    textures = TEXTURE(image, previous)
    assert textures.shape == (1, 40, rows, columns)
    assert textures.dtype == torch.float32
    for channel, values in zip(TEXTURE.channels, textures[0], strict=True):
        assert values.min() >= channel.low - 1e-5, channel
        assert values.max() <= channel.high + 1e-5, channel


@pytest.mark.parametrize(
    ("channel", "pixels"),
    [
        ("L", torch.ones(64, 64)),
        ("edge_x", (torch.arange(64) % 4 < 2).float().expand(64, 64)),
        ("edge_y", (torch.arange(64) % 4 < 2).float().expand(64, 64).T),
        ("low_pass", torch.ones(64, 64)),
        ("contrast", (torch.arange(64) % 2).float().expand(64, 64)),
        ("edge_distance", torch.ones(64, 64)),
        ("entropy", ((torch.arange(64) % 32 + 0.5) / 32).expand(64, 64)),
    ],
)
def test_ranges_are_used_to_the_full(channel, pixels, grey, measure):
    assert measure(grey(pixels))[channel].max() > 0.95


def test_a_and_b_reach_as_far_as_srgb_does(measure):
    colours = torch.tensor([[1.0, 0, 1], [0, 0, 1]])[:, :, None, None].expand(2, 3, 32, 32)
    measured = measure(colours)
    assert measured["a"].max() > 98 / 128  # of magenta
    assert measured["b"].min() < -107 / 128  # of blue


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 9), (9, 1), (2, 5)])
def test_any_aspect_works_also_smaller_than_the_surround(rows, columns, picture):
    textures = TEXTURE(picture(rows, columns))
    assert textures.shape == (1, 40, rows, columns)
    assert textures.isfinite().all()


def test_turning_the_image_turns_its_textures(photograph):
    upright, turned = TEXTURE(photograph), TEXTURE(photograph.mT)
    turns_into = {"edge_x": "edge_y", "edge_y": "edge_x", "x": "y", "y": "x"}
    for name, values in zip(NAMES, upright.unbind(1), strict=True):
        if name == "boundary":  # of equally similar superpixels the first by rows wins
            continue
        other = f"dct_{name[5]}{name[4]}" if "dct" in name else turns_into.get(name, name)
        found = turned[:, TEXTURE.index(other)].mT
        torch.testing.assert_close(found, values, atol=1e-5, rtol=0, msg=name)


# ----------------------------------------------------------------------------- independence


def test_a_neighbour_in_the_batch_changes_nothing(picture):
    # Of different brightness: what is scaled by a whole batch would change the darker ones.
    images = torch.cat([picture(seed=seed) / 2**seed for seed in range(3)] + [picture().round()])
    previous = Previous(images.flip(0), torch.rand(4, 2, 3), torch.rand(4, 2, 3))
    together = TEXTURE(images, previous)
    for number, textures in enumerate(together):
        own = Previous(*(values[number, None] for values in previous))
        alone = TEXTURE(images[number, None], own)[0]
        torch.testing.assert_close(alone, textures, atol=1e-6, rtol=0)


def test_nothing_is_tracked_or_learned(picture):
    assert not TEXTURE(picture().requires_grad_()).requires_grad
    assert not list(TEXTURE.parameters())
    assert not TEXTURE.state_dict()


def test_the_images_are_left_as_they_were(picture):
    image = picture()
    TEXTURE(image, Previous(image))
    assert image.equal(picture())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_around_it_changes_nothing(dtype, picture):
    with torch.autocast("cpu", dtype):
        textures = TEXTURE(picture(), Previous(picture(seed=1)))
    assert textures.equal(TEXTURE(picture(), Previous(picture(seed=1))))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_images_of_another_type_are_measured_in_fp32(dtype, picture):
    image = picture().round().to(dtype)
    textures = TEXTURE(image)
    assert textures.dtype == torch.float32
    assert textures.equal(TEXTURE(image.float()))


@pytest.mark.parametrize("shuffle", ["channels last", "transposed", "every second"])
def test_memory_layout_changes_nothing(shuffle, picture):
    image = picture(4, 4)
    if shuffle == "channels last":
        other = image.to(memory_format=torch.channels_last)
    elif shuffle == "transposed":
        other = image.mT.contiguous().mT
    else:
        other = image.repeat_interleave(2, -1)[..., ::2]
    torch.testing.assert_close(TEXTURE(other), TEXTURE(image), atol=1e-6, rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("channels", ["core", "full"])
def test_a_gpu_measures_the_same(channels, photograph):
    texture = TextureGenerator(channels)
    found = texture(photograph.cuda()).cpu()
    expected = texture(photograph)
    # A pixel on the border of two levels or superpixels may fall to either side.
    for channel, one, other in zip(texture.channels, found[0], expected[0], strict=True):
        loose = channel.name in ("boundary", "entropy", "edge_distance")
        tolerance = 2e-2 if loose else 1e-4
        torch.testing.assert_close(one, other, atol=tolerance, rtol=0, msg=channel.name)


# --------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("size", [(33, 64), (64, 31), (16, 16), (0, 32)])
def test_a_size_that_is_no_whole_number_of_cells_is_refused(size):
    with pytest.raises(ValueError, match=rf"{size[0]}x{size[1]} px; expected multiples of 32"):
        TEXTURE(torch.zeros(1, 3, *size))
