"""Place channels, and what is remembered of a turn or frame before."""

import pytest
import torch

from lightning_arrcoc.relevance.textures import CELL_PX, Previous, TextureGenerator, side_by_side


def test_places_by_hand(measure):
    measured = measure(torch.zeros(1, 3, 2 * CELL_PX, 4 * CELL_PX))
    assert measured["y"][0].tolist() == [[0.25] * 4, [0.75] * 4]
    assert measured["x"][0].tolist() == [[0.125, 0.375, 0.625, 0.875]] * 2
    # In cells from the middle (1, 2): rows 0.5, columns 1.5 or 0.5; half the diagonal sqrt(5).
    outer, inner = (2.5 / 5) ** 0.5, (0.5 / 5) ** 0.5
    expected = torch.tensor([[outer, inner, inner, outer]] * 2)
    torch.testing.assert_close(measured["eccentricity"][0], expected)


def test_the_middle_cell_has_no_eccentricity(measure):
    eccentricity = measure(torch.zeros(1, 3, 3 * CELL_PX, 5 * CELL_PX))["eccentricity"][0]
    assert eccentricity[1, 2] == 0
    assert eccentricity.count_nonzero() == 14


REMEMBERED = ("motion", "previous_saliency", "previous_relevance")


def test_a_first_frame_remembers_nothing(picture, measure):
    for previous in (None, Previous()):
        measured = measure(picture(), previous)
        assert all(not measured[name].any() for name in REMEMBERED)


def test_motion_is_the_change_of_luma_by_hand(measure):
    before, now = torch.full((1, 3, 64, 96), 0.25), torch.full((1, 3, 64, 96), 0.25)
    now[0, :, 32:48, 32:64] = 0.75  # half of the cell in row 1, column 1, brighter by 0.5
    now[0, 0, :32, :32] = 0  # the first cell loses 0.25 of red, which weighs 0.299
    expected = torch.tensor([[0.25 * 0.299, 0, 0], [0, 0.25, 0]])
    for frames in ((before, now), (now, before)):
        motion = measure(frames[1], Previous(images=frames[0]))["motion"][0]
        torch.testing.assert_close(motion, expected, atol=1e-6, rtol=0)


def test_saliency_and_relevance_are_passed_on(picture, measure):
    saliency, relevance = torch.rand(2, 1, 2, 3, generator=torch.Generator().manual_seed(0))
    measured = measure(picture(), Previous(saliency=saliency.double(), relevance=relevance))
    assert measured["previous_saliency"].equal(saliency)
    assert measured["previous_relevance"].equal(relevance)
    assert not measured["motion"].any()


def test_memory_changes_no_other_channel(picture, measure):
    first = measure(picture())
    previous = Previous(picture(seed=1), torch.ones(1, 2, 3), torch.ones(1, 2, 3))
    second = measure(picture(), previous)
    for name, values in first.items():
        assert second[name].equal(values) == (name not in REMEMBERED), name


def test_core_takes_a_memory_that_it_has_no_channels_for(picture):
    texture = TextureGenerator("core")
    previous = Previous(images=picture(seed=1))
    assert texture(picture(), previous).equal(texture(picture()))


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("images", (1, 3, 64, 64), r"\(1, 3, 64, 96\)"),
        ("images", (2, 3, 64, 96), r"\(1, 3, 64, 96\)"),
        ("saliency", (1, 3, 2), r"\(1, 2, 3\)"),
        ("saliency", (2, 3), r"\(1, 2, 3\)"),
        ("relevance", (2, 2, 3), r"\(1, 2, 3\)"),
    ],
)
def test_a_memory_of_another_size_is_refused(name, shape, expected, picture, measure):
    with pytest.raises(ValueError, match=rf"previous\.{name} has shape .*expected {expected}"):
        measure(picture(), Previous(**{name: torch.zeros(shape)}))


def test_images_seen_before_and_new_ones_stand_side_by_side(picture, measure):
    images = torch.cat([picture(seed=seed) for seed in range(3)])
    before = Previous(picture(seed=7)[0], torch.rand(2, 3), torch.rand(2, 3))
    known = side_by_side([None, before, Previous(relevance=torch.ones(2, 3))], images)
    together = measure(images, known)
    alone = measure(images[1:2], Previous(*(values[None] for values in before)))
    for name in REMEMBERED:
        assert not together[name][0].any(), "a new image remembers nothing"
        torch.testing.assert_close(together[name][1], alone[name][0])
        assert together[name][1].any()
    assert not together["motion"][2].any()
    assert together["previous_relevance"][2].eq(1).all()
    assert known.image(1).images.equal(before.images)


def test_where_all_images_are_new_there_is_nothing_before(picture):
    assert side_by_side([None], picture()) is None


def test_what_was_seen_elsewhere_and_otherwise_comes_as_the_images_are(picture):
    known = side_by_side([Previous(relevance=torch.ones(2, 3, dtype=torch.float64))], picture())
    assert known.relevance.dtype == picture().dtype


def test_an_image_of_another_size_before_is_refused(picture):
    with pytest.raises(ValueError, match=r"previous\.images has shape .*expected \(3, 64, 96\)"):
        side_by_side([None, Previous(torch.zeros(3, 64, 64))], torch.cat([picture(), picture()]))


@pytest.mark.parametrize("channels", ["full", ["saliency", "motion"], ["motion", "red"]])
def test_what_is_remembered_is_image_saliency_and_relevance(picture, channels):
    texture = TextureGenerator(channels)
    assert texture.remembers
    textures, relevance = texture(picture()), torch.rand(1, 2, 3, requires_grad=True)
    seen = texture.remember(picture(), textures, relevance)
    assert seen.images.equal(picture())
    assert seen.relevance.equal(relevance)
    assert not seen.relevance.requires_grad
    if "saliency" in [channel.name for channel in texture.channels]:
        assert seen.saliency.equal(textures[:, texture.index("saliency")])
    else:
        assert seen.saliency is None


def test_textures_without_memory_remember_nothing(picture):
    texture = TextureGenerator("core")
    assert not texture.remembers
    assert texture.remember(picture(), texture(picture()), torch.rand(1, 2, 3)) is None
