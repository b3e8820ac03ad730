"""One sheet about one image: what was kept of it, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_arrcoc.pictures.answers import (
    NEUTRAL,
    Answered,
    kept_words,
    verdict,
    verdict_colour,
    wrap,
)
from lightning_arrcoc.pictures.kept import draw_kept, level_counts, level_key
from lightning_arrcoc.pictures.maps import (
    SCORE_SCALE,
    channel_scale,
    draw_channel,
    draw_scale,
    draw_score,
    draw_tension,
)
from lightning_arrcoc.relevance import Knowing, Realization
from lightning_arrcoc.relevance.balancing import TENSIONS
from lightning_arrcoc.relevance.textures import Channel

# All lengths are inches; chosen by us, to be legible at the size that `save_figure` writes.
WIDTH, MARGIN = 16.0, 0.4
INNER = WIDTH - 2 * MARGIN
LINE = 0.27  # of text
TITLE, CHANNEL_TITLE = 0.48, 0.42  # above a map
GAP, BAR = 0.35, 0.55  # between panels; for a colour bar and its numbers
MAP_AREA, CHANNEL_AREA = 11.0, 1.75  # square inches
MOST_MAP, MOST_CHANNEL = 4.0, 2.4  # heights
LEAST_CHANNEL = 1.33  # a width that the longest name fits in
TENSION = 0.28
MOST_ASPECT = 4.0  # panels of images beyond it keep this shape and have empty room
CHARACTERS = 120  # a line


class Explained(NamedTuple):
    """All there is to say about one image of one question.

    Attributes:
        answered: image, question, answer and tokens.
        realization: what was found relevant in that image alone (I = 1).
        channels: what its textures are.
        scorers: names of those that were heard; the maps of the others say nothing.
    """

    answered: Answered
    realization: Realization
    channels: tuple[Channel, ...]
    scorers: Sequence[str] = Knowing.NAMES


class Page:
    """A figure laid out in inches from its upper left corner."""

    def __init__(self, height: float) -> None:
        self.height = height
        self.figure = Figure(figsize=(WIDTH, height))

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """An empty panel."""
        bottom = self.height - top - height
        return self.figure.add_axes(
            (left / WIDTH, bottom / self.height, width / WIDTH, height / self.height)
        )

    def write(self, top: float, text: str, size_pt: float, color: str = NEUTRAL) -> float:
        """Text at the left margin; gives where the next line begins."""
        self.figure.text(
            MARGIN / WIDTH, 1 - top / self.height, text, fontsize=size_pt, color=color, va="top",
            parse_math=False,
        )  # fmt: skip
        return top + LINE * (text.count("\n") + 1)


def draw_explained(item: Explained) -> Figure:
    """A sheet: the image's quadtree of tokens, scores, relevance, tensions and every channel.

    Scores and relevance are drawn on a scale from 0 to 1, channels on the range of their table;
    what a channel really holds stands above it.

    Raises:
        ValueError: the realization is not that of this one image, or the table not that of its
            textures.
    """
    _check(item)
    answered = item.answered
    question = wrap(" ".join(answered.question.split()), CHARACTERS)
    answer = verdict(answered, CHARACTERS)
    aspect = answered.image.width / answered.image.height
    aspect = min(MOST_ASPECT, max(1 / MOST_ASPECT, aspect))
    map_height = min(
        (MAP_AREA / aspect) ** 0.5,
        MOST_MAP,
        (INNER - GAP - 2 * BAR - TITLE * aspect) / (4 * aspect),
    )
    rows, columns = _grid(len(item.channels), aspect)
    channel_height = min(MOST_CHANNEL, (INNER / columns - GAP / 2) / aspect)
    heading = MARGIN + LINE * (f"{question}\n{answer}".count("\n") + 2.5)
    upper = heading + TITLE
    strip = upper + 2 * map_height + TITLE + GAP
    inspector = strip + TENSION + GAP
    height = inspector + LINE + rows * (CHANNEL_TITLE + channel_height) + MARGIN

    page = Page(height)
    top = page.write(MARGIN, question, 13)
    top = page.write(top, answer, 13, verdict_colour(answered))
    _write_tokens(page, top, item)
    _draw_maps(page, upper, map_height, aspect, item)
    _draw_tensions(page, strip, item)
    _draw_channels(page, inspector, (rows, columns), channel_height, item)
    return page.figure


def _check(item: Explained) -> None:
    images, channels, rows, columns = item.realization.textures.shape
    tokens_of = tuple(item.answered.allocation.relevance.shape)
    if images != 1 or (rows, columns) != tokens_of:
        raise ValueError(
            f"The realization is of {images} images with {rows} x {columns} cells, the tokens of "
            f"one with {tokens_of[0]} x {tokens_of[1]}; pass what belongs to one image."
        )
    if channels != len(item.channels):
        raise ValueError(
            f"The textures have {channels} channels, their table {len(item.channels)}; pass the "
            "table that they were made by (model.arr_coc.texture.channels)."
        )


def _grid(channels: int, aspect: float) -> tuple[int, int]:
    """Rows and columns of the inspector, as evenly filled as can be."""
    width = max(LEAST_CHANNEL, (CHANNEL_AREA * aspect) ** 0.5)
    rows = -(-channels // max(1, int(INNER / (width + GAP / 2))))
    return rows, -(-channels // rows)


def _write_tokens(page: Page, top: float, item: Explained) -> None:
    """How many tokens are kept at which level, and the key to their frames."""
    counts = level_counts(item.answered.allocation)
    levels = ", ".join(f"{count} at level {level}" for level, count in counts.items())
    words = kept_words(item.answered.allocation)
    page.write(top, f"{words} ({levels})" if levels else words, 11)
    page.figure.legend(
        handles=level_key(counts), ncols=max(1, len(counts)), frameon=False, fontsize=10,
        loc="upper right", borderpad=0, borderaxespad=0,
        bbox_to_anchor=(1 - MARGIN / WIDTH, 1 - top / page.height),
    )  # fmt: skip


def _draw_maps(page: Page, top: float, height: float, aspect: float, item: Explained) -> None:
    """The image with its tokens, and two by two the three scores and the relevance."""
    whole, width = 2 * height + TITLE, height * aspect
    left = (WIDTH - whole * aspect - GAP - 2 * (width + BAR)) / 2
    image, realization = item.answered.image, item.realization
    draw_kept(page.axes(left, top, whole * aspect, whole), image, item.answered.allocation)
    left += whole * aspect + GAP
    heard = {n: n if n in item.scorers else f"{n} (not heard)" for n in Knowing.NAMES}
    maps = dict(zip(heard.values(), realization.scores[0], strict=True))
    maps["relevance"] = item.answered.allocation.relevance
    for place, (name, values_HW) in enumerate(maps.items()):
        row, column = divmod(place, 2)
        x, y = left + column * (width + BAR), top + row * (height + TITLE)
        draw_score(page.axes(x, y, width, height), values_HW, name, image)
        draw_scale(page.axes(x + width + 0.06, y, 0.1, height), SCORE_SCALE, "vertical")


def _draw_tensions(page: Page, top: float, item: Explained) -> None:
    """Three bars side by side, between the names of their ends."""
    room = INNER / len(TENSIONS)
    names = 1.1  # on either side
    for place, (name, value) in enumerate(
        zip(TENSIONS, item.realization.tensions[0].tolist(), strict=True)
    ):
        axes = page.axes(MARGIN + place * room + names, top, room - 2 * names, TENSION)
        draw_tension(axes, name, value)


def _draw_channels(
    page: Page, top: float, grid: tuple[int, int], height: float, item: Explained
) -> None:
    """The inspector: a map a channel, and a colour bar for each scale there is."""
    textures_CHW = item.realization.textures[0]
    page.write(top, f"{len(item.channels)} texture channels", 11)
    scales = dict.fromkeys(channel_scale(channel) for channel in item.channels)
    right = WIDTH - MARGIN - 0.1
    for scale in scales:
        bar = page.axes(right - 2.2, top + 0.02, 2.2, 0.12)
        draw_scale(bar, scale, "horizontal")
        right -= 2.8
    room = INNER / grid[1]
    for place, (channel, values_HW) in enumerate(zip(item.channels, textures_CHW, strict=True)):
        row, column = divmod(place, grid[1])
        axes = page.axes(
            MARGIN + column * room + GAP / 4,
            top + LINE + row * (CHANNEL_TITLE + height) + CHANNEL_TITLE,
            room - GAP / 2,
            height,
        )
        draw_channel(axes, values_HW, channel, item.answered.image)
