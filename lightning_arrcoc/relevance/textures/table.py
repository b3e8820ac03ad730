"""The channel tables: what each texture channel is, in the order of the output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Channel(NamedTuple):
    """One row of a table; unless the formula says otherwise a mean over the cell's pixels.

    Channels of one group are measured together.
    """

    name: str
    group: str
    low: float
    high: float
    formula: str


# Of the formulas. Raise it whenever the same pixels get other values: textures kept on disk would
# pass for what is measured now. A test holds some values fast, to remind of it.
TEXTURES_VERSION = 1
DCT_ORDERS = tuple((row, column) for row in range(4) for column in range(4) if row or column)
FULL = (
    Channel("red", "colour", 0, 1, "sRGB red"),
    Channel("green", "colour", 0, 1, "sRGB green"),
    Channel("blue", "colour", 0, 1, "sRGB blue"),
    Channel("L", "colour", 0, 1, "CIELAB lightness / 100, D65"),
    Channel("a", "colour", -1, 1, "CIELAB green to red / 128, D65"),
    Channel("b", "colour", -1, 1, "CIELAB blue to yellow / 128, D65"),
    Channel("edge_x", "edge", 0, 1, "|Sobel across columns| of luma, 1 = black beside white"),
    Channel("edge_y", "edge", 0, 1, "|Sobel across rows| of luma, 1 = black above white"),
    Channel("edge_mean", "edge", 0, 1, "Sobel magnitude of luma / sqrt 2"),
    Channel("edge_peak", "edge", 0, 1, "largest Sobel magnitude of luma / sqrt 2 in the cell"),
    Channel("high_pass", "detail", 0, 1, "|luma - its Gaussian blur|, sigma 2 px"),
    Channel("low_pass", "detail", 0, 1, "Gaussian blur of luma, sigma 8 px"),
    Channel("contrast", "contrast", 0, 1, "2 x standard deviation of luma inside the cell"),
    Channel("entropy", "detail", 0, 1, "Shannon entropy of 32 luma levels in the cell / 5 bit"),
    Channel("saliency", "salience", 0, 1, "Lab distance of centre and surround / 100, mean scale"),
    Channel("text", "strokes", 0, 1, "luma of strokes thinner than 10 px, above their ground"),
    Channel("edge_distance", "distance", 0, 1, "distance to the nearest edge / 32 px, at most 1"),
    Channel("boundary", "regions", 0, 1, "share of pixels where superpixels of two colours meet"),
    Channel("y", "place", 0, 1, "row of the cell's centre / rows"),
    Channel("x", "place", 0, 1, "column of the cell's centre / columns"),
    Channel("eccentricity", "place", 0, 1, "distance from the image's middle / half its diagonal"),
    Channel("motion", "previous", 0, 1, "|luma - luma of the previous frame|"),
    Channel("previous_saliency", "previous", 0, 1, "the cell's saliency one turn ago"),
    Channel("previous_relevance", "previous", 0, 1, "the cell's relevance one turn ago"),
    *(
        Channel(f"dct_{row}{column}", "appearance", -1, 1,
                f"DCT-II of the cell's luma, {row} half waves down and {column} across, / its most")
        for row, column in DCT_ORDERS
    ),
    Channel("chroma", "appearance", 0, 1, "spread of Lab's a and b inside the cell / 128"),
)  # fmt: skip
CORE_NAMES = (
    "red", "green", "blue", "L", "a", "edge_x", "edge_y", "edge_mean",
    "y", "x", "eccentricity", "saliency", "contrast",
)  # fmt: skip
CORE = tuple(next(row for row in FULL if row.name == name) for name in CORE_NAMES)
TABLES: Mapping[str, tuple[Channel, ...]] = {"core": CORE, "full": FULL}


def channel_table(channels: str | Sequence[str]) -> tuple[Channel, ...]:
    """A table by its name, or the rows of single channels in the order given.

    Raises:
        ValueError: no such table or channel, a channel twice, or none.
    """
    if isinstance(channels, str):
        if channels not in TABLES:
            raise ValueError(
                f"channels={channels!r}; choose one of {', '.join(TABLES)}, or list single "
                "channels, as [red,green,blue]."
            )
        return TABLES[channels]
    known = {channel.name: channel for channel in FULL}
    names = list(channels)
    if not names or len(set(names)) < len(names) or set(names) - set(known):
        raise ValueError(
            f"channels={names}; expected each once and at least one of {', '.join(known)}."
        )
    return tuple(known[name] for name in names)


def channel_index(channels: tuple[Channel, ...], name: str) -> int:
    """Position of a channel in a table; KeyError where it has none of that name."""
    for position, channel in enumerate(channels):
        if channel.name == name:
            return position
    raise KeyError(f"No channel {name!r}; there are {', '.join(c.name for c in channels)}.")
