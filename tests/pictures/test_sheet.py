"""The sheet says all there is to say about one image, and says it right."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from lightning_arrcoc.pictures import Answered, Explained, draw_explained, save_figure
from lightning_arrcoc.pictures.answers import NEUTRAL, RIGHT, WRONG
from lightning_arrcoc.pictures.kept import LEVEL_COLOURS
from lightning_arrcoc.relevance import Allocation, Realization
from lightning_arrcoc.relevance.textures import CORE, FULL, Channel

Allocate = Callable[..., Allocation]
TOKENS = [(0, 0, 0), (0, 1, 1), (1, 0, 2), (2, 0, 4), (2, 4, 0)]
SCORES = ("information", "perspectival", "participatory")


@pytest.fixture
def explained(allocate: Allocate) -> Callable[..., Explained]:
    def made(
        channels: tuple[Channel, ...] = CORE,
        grid: tuple[int, int] = (5, 6),
        question: str = "Which digit is red?",
        answer: str = "7",
        truth: str | None = "7",
        tensions: tuple[float, float, float] = (0.25, 0.9, 0.5),
    ) -> Explained:
        rows, columns = grid
        torch.manual_seed(0)
        low = torch.tensor([channel.low for channel in channels]).view(1, -1, 1, 1)
        high = torch.tensor([channel.high for channel in channels]).view(1, -1, 1, 1)
        textures = low + torch.rand(1, len(channels), rows, columns) * (high - low)
        allocation = allocate(rows, columns, TOKENS)
        realization = Realization(
            textures,
            torch.rand(1, 3, rows, columns),
            torch.tensor([tensions]),
            allocation.relevance.logit()[None],
        )
        white = Image.new("RGB", (32 * columns, 32 * rows), "white")
        return Explained(
            Answered(white, question, answer, truth, allocation), realization, channels
        )

    return made


def maps(figure: Figure) -> dict[str, Axes]:
    """The map panels by name."""
    found = {}
    for axes in figure.axes:
        names = [text.get_text() for text in axes.texts]
        if axes.images and names:
            found[names[0]] = axes
    return found


def bars(figure: Figure) -> dict[tuple[str, str], tuple[float, str]]:
    """Length and number of each tension, by the names of its ends."""
    found = {}
    for axes in figure.axes:
        if len(axes.patches) == 2 and not axes.images:
            number, left, right = (text.get_text() for text in axes.texts)
            found[left, right] = (axes.patches[1].get_width(), number)
    return found


def written(figure: Figure) -> list[Text]:
    return list(figure.texts)


@pytest.mark.parametrize("channels", [CORE, FULL], ids=["core", "full"])
def test_every_channel_is_drawn_by_name_and_group_with_its_own_values(
    channels: tuple[Channel, ...], explained: Callable[..., Explained]
) -> None:
    item = explained(channels)
    found = maps(draw_explained(item))
    assert list(found)[4:] == [channel.name for channel in channels]
    for channel, values in zip(channels, item.realization.textures[0], strict=True):
        axes = found[channel.name]
        assert np.asarray(axes.images[0].get_array()) == pytest.approx(values.numpy())
        assert axes.get_title() == f"{channel.group}  {values.min():.2f} to {values.max():.2f}"


def test_channels_are_coloured_over_the_range_of_their_table(
    explained: Callable[..., Explained],
) -> None:
    lopsided = Channel("lopsided", "other", -0.5, 2, "")
    dark = Channel("dark", "other", 10, 20, "")
    found = maps(draw_explained(explained((*FULL, lopsided, dark))))
    for channel in (*FULL, lopsided, dark):
        shown = found[channel.name].images[0]
        signed = channel.low < 0
        most = max(-channel.low, channel.high)
        assert shown.get_clim() == ((-most, most) if signed else (channel.low, channel.high))
        assert (shown.get_cmap().name == "RdBu_r") == signed
        if signed:
            red, green, blue, _ = shown.to_rgba(0.0)
            assert min(red, green, blue) > 0.95, "zero is white"


def test_scores_and_relevance_have_names_and_one_fixed_scale_with_a_bar_each(
    explained: Callable[..., Explained],
) -> None:
    item = explained()
    figure = draw_explained(item)
    found = maps(figure)
    assert list(found)[:4] == [*SCORES, "relevance"]
    expected = [*item.realization.scores[0], item.answered.allocation.relevance]
    for name, values in zip(list(found)[:4], expected, strict=True):
        shown = found[name].images[0]
        assert np.asarray(shown.get_array()) == pytest.approx(values.numpy())
        assert shown.get_clim() == (0, 1)
    bars = [part for axes in figure.axes for part in axes.collections if isinstance(part, QuadMesh)]
    assert [bar.get_clim() for bar in bars[:4]] == [(0, 1)] * 4
    assert {bar.get_cmap().name for bar in bars[:4]} == {
        found["relevance"].images[0].get_cmap().name
    }
    assert {bar.get_clim() for bar in bars[4:]} == {(0, 1), (-1, 1)}, "and one for each of channels"


def test_tensions_are_bars_between_the_names_of_both_ends(
    explained: Callable[..., Explained],
) -> None:
    found = bars(draw_explained(explained(tensions=(0.25, 0.9, 0.5))))
    assert found == {
        ("explore", "exploit"): (pytest.approx(0.25), "0.25"),
        ("particularize", "compress"): (pytest.approx(0.9), "0.90"),
        ("diversify", "focus"): (pytest.approx(0.5), "0.50"),
    }


def test_it_says_question_answer_and_tokens_by_level(explained: Callable[..., Explained]) -> None:
    figure = draw_explained(explained(answer="7", truth="3"))
    assert [text.get_text() for text in written(figure)] == [
        "Which digit is red?",
        "answer: 7    truth: 3",
        "kept 5 of 30 tokens (2 at level 0, 1 at level 1, 2 at level 2)",
        "13 texture channels",
    ]
    (key,) = figure.legends
    assert [to_hex(patch.get_facecolor()) for patch in key.get_patches()] == list(LEVEL_COLOURS)


def test_an_image_without_tokens_still_has_its_sheet(
    explained: Callable[..., Explained], allocate: Allocate, tmp_path: Path
) -> None:
    item = explained()
    item = item._replace(answered=item.answered._replace(allocation=allocate(5, 6, [])))
    figure = draw_explained(item)
    assert "kept 0 of 30 tokens" in [text.get_text() for text in written(figure)]
    save_figure(figure, tmp_path / "sheet.png")


@pytest.mark.parametrize(
    ("answer", "truth", "colour"), [("7", "7", RIGHT), ("7", "3", WRONG), ("7", None, NEUTRAL)]
)
def test_the_answer_has_the_colour_of_its_verdict(
    answer: str, truth: str | None, colour: str, explained: Callable[..., Explained]
) -> None:
    figure = draw_explained(explained(answer=answer, truth=truth))
    assert to_hex(written(figure)[1].get_color()) == colour


TEXTS = {
    "dollars": "Is it $5 or {$6_a}, or $\\frac{1}{2$?",
    "lines": "What\nis\r\n\tit?",
    "many words": "Which digit is right of the red one? " * 20,
    "one word": "x" * 500,
    "control characters": "\x00\x1b\x7f",
    "nothing": "",
}


def assert_all_is_legible(figure: Figure) -> None:
    """Nothing leaves the sheet, and no text meets another or a panel of its neighbours."""
    FigureCanvasAgg(figure).draw()
    page = figure.bbox
    lines = [text.get_window_extent() for text in written(figure) if text.get_text().strip()]
    lines += [key.get_window_extent() for key in figure.legends]
    panels = [axes.get_window_extent() for axes in figure.axes]
    names = [
        text.get_window_extent()
        for axes in maps(figure).values()
        for text in (axes.texts[0], axes.title)
    ]
    for box in (*lines, *panels, *names):
        assert page.x0 <= box.x0 < box.x1 <= page.x1
        assert page.y0 <= box.y0 < box.y1 <= page.y1
    words = [*lines, *names]
    for place, box in enumerate(words):
        assert not any(box.overlaps(other) for other in (*words[place + 1 :], *panels))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_whatever_is_asked_and_answered_is_legible(
    text: str, explained: Callable[..., Explained]
) -> None:
    assert_all_is_legible(draw_explained(explained(question=text, answer=text, truth=text)))


@pytest.mark.parametrize("grid", [(5, 6), (5, 15), (15, 5), (2, 60), (60, 2)], ids=str)
def test_an_image_of_any_shape_has_a_legible_sheet_with_all_channels(
    grid: tuple[int, int], explained: Callable[..., Explained]
) -> None:
    assert_all_is_legible(draw_explained(explained(FULL, grid, question=TEXTS["many words"])))


@pytest.mark.parametrize("grid", [(5, 6), (5, 15), (15, 5)], ids=str)
def test_maps_have_the_images_proportions(
    grid: tuple[int, int], explained: Callable[..., Explained]
) -> None:
    figure = draw_explained(explained(grid=grid))
    FigureCanvasAgg(figure).draw()
    for axes in maps(figure).values():
        box = axes.get_window_extent()
        assert box.width / box.height == pytest.approx(grid[1] / grid[0], rel=0.02)


def test_what_does_not_belong_together_is_refused(
    explained: Callable[..., Explained], allocate: Allocate
) -> None:
    item = explained()
    with pytest.raises(ValueError, match=r"13 channels, their table 40; .*texture\.channels"):
        draw_explained(item._replace(channels=FULL))
    other = item.answered._replace(allocation=allocate(6, 5, []))
    with pytest.raises(ValueError, match="5 x 6 cells, the tokens of one with 6 x 5"):
        draw_explained(item._replace(answered=other))
    two = Realization(*(torch.cat([part, part]) for part in item.realization[:4]))
    with pytest.raises(ValueError, match="of 2 images"):
        draw_explained(item._replace(realization=two))


def test_values_that_still_hang_on_a_graph_or_are_rounded_are_drawn(
    explained: Callable[..., Explained],
) -> None:
    item = explained()
    learned = Realization(*(part.bfloat16().requires_grad_() for part in item.realization[:4]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_explained(item._replace(realization=learned))
