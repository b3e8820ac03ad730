"""The tables hold the channels that DESIGN lists, in that order."""

import pytest

from lightning_arrcoc.relevance.textures import CORE, FULL, TABLES, TextureGenerator, channel_index

WAVES = [f"dct_{row}{column}" for row in range(4) for column in range(4)][1:]


def test_full_has_40_channels_in_the_order_of_the_design():
    names = [channel.name for channel in FULL]
    assert names[0:3] == ["red", "green", "blue"]
    assert names[3:6] == ["L", "a", "b"]
    assert names[6:10] == ["edge_x", "edge_y", "edge_mean", "edge_peak"]
    assert names[10:14] == ["high_pass", "low_pass", "contrast", "entropy"]
    assert names[14:18] == ["saliency", "text", "edge_distance", "boundary"]
    assert names[18:21] == ["y", "x", "eccentricity"]
    assert names[21:24] == ["motion", "previous_saliency", "previous_relevance"]
    assert names[24:] == [*WAVES, "chroma"]
    assert len(names) == len(set(names)) == 40


def test_core_has_13_channels_in_the_order_of_the_design():
    assert [channel.name for channel in CORE] == [
        "red", "green", "blue", "L", "a", "edge_x", "edge_y", "edge_mean",
        "y", "x", "eccentricity", "saliency", "contrast",
    ]  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_a_channels_index_is_its_place_in_the_output(name, picture):
    texture = TextureGenerator(name)
    assert texture.out_channels == len(texture.channels)
    assert texture(picture()).shape == (1, texture.out_channels, 2, 3)
    for place, channel in enumerate(texture.channels):
        assert texture.index(channel.name) == channel_index(texture.channels, channel.name) == place
        assert channel.low in (-1, 0)
        assert channel.high == 1
        assert channel.formula


def test_core_equals_the_channels_of_the_same_name_in_full(picture, measure):
    full = measure(picture())
    for channel, values in zip(CORE, TextureGenerator("core")(picture()).unbind(1), strict=True):
        assert values.equal(full[channel.name]), channel


def test_an_unknown_channel_table_is_refused():
    with pytest.raises(ValueError, match="channels='everything'; choose one of core, full"):
        TextureGenerator("everything")


def test_single_channels_are_those_of_the_full_table_in_the_order_given(picture, measure):
    names = ["y", "blue", "contrast", "red"]
    texture = TextureGenerator(names)
    assert [channel.name for channel in texture.channels] == names
    assert texture.out_channels == 4
    full = measure(picture())
    for name, values in zip(names, texture(picture()).unbind(1), strict=True):
        assert values.equal(full[name])


@pytest.mark.parametrize("channels", [[], ["red", "smell"], ["red", "red"], ["core"]])
def test_single_channels_that_are_none_are_refused(channels):
    with pytest.raises(ValueError, match=r"expected each once and at least one of red, green"):
        TextureGenerator(channels)


def test_an_unknown_channel_is_refused_with_the_known_ones():
    with pytest.raises(KeyError, match=r"No channel 'smell'; there are red, green"):
        TextureGenerator().index("smell")
