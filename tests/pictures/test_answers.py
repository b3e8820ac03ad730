"""A stranger sees what was kept for each answer, and whether it was right."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from lightning_arrcoc.pictures import Answered, draw_answers, save_figure
from lightning_arrcoc.pictures.answers import COLUMNS, NEUTRAL, RIGHT, WRONG, wrap
from lightning_arrcoc.pictures.kept import DIMMED
from lightning_arrcoc.relevance import Allocation


def allocation(rows: int, columns: int, kept: Sequence[tuple[int, int]]) -> Allocation:
    return Allocation(
        positions=torch.tensor(kept, dtype=torch.float32).view(-1, 2),
        levels=torch.zeros(len(kept), dtype=torch.int64),
        budgets=torch.tensor([[len(kept)]]),
        relevance=torch.linspace(0, 1, rows * columns).view(rows, columns),
        tensions=torch.tensor([0.5, 0.5, 0.5]),
    )


def answered(
    answer: str = "7",
    truth: str | None = "7",
    question: str = "Which digit is red?",
    kept: Sequence[tuple[int, int]] = ((0, 1), (1, 2)),
) -> Answered:
    white = Image.new("RGB", (96, 64), "white")
    return Answered(white, question, answer, truth, allocation(2, 3, kept))


def drawn(figure: Figure) -> list:
    """The axes that show a picture; the last row may hold empty ones."""
    return [axes for axes in figure.axes if axes.images]


@pytest.mark.parametrize("count", [1, 3, COLUMNS, COLUMNS + 1])
def test_a_sheet_has_one_picture_an_answer(count: int) -> None:
    figure = draw_answers([answered(question=f"Number {i}?") for i in range(count)], "a title")
    assert isinstance(figure, Figure)
    assert [axes.get_title().splitlines()[0] for axes in drawn(figure)] == [
        f"Number {i}?" for i in range(count)
    ]
    assert figure.get_suptitle() == "a title"
    assert not any(axes.axison for axes in figure.axes), "no ticks, not even round an empty place"


def test_each_picture_says_question_tokens_answer_and_truth() -> None:
    (axes,) = drawn(draw_answers([answered(answer="7", truth="3")], "title"))
    assert axes.get_title() == "Which digit is red?\nkept 2 of 6 tokens"
    assert [text.get_text() for text in axes.texts] == ["answer: 7    truth: 3"]


def test_without_a_truth_none_is_shown() -> None:
    (axes,) = drawn(draw_answers([answered(truth=None)], "title"))
    assert [text.get_text() for text in axes.texts] == ["answer: 7"]


def test_frames_of_several_levels_are_explained_once(allocate: Callable[..., Allocation]) -> None:
    coarse = answered()._replace(allocation=allocate(2, 3, [(0, 0, 2), (1, 0, 0)]))
    figure = draw_answers([answered(), coarse, coarse], "title")
    (key,) = figure.legends
    assert [text.get_text() for text in key.texts] == ["level 0: one cell", "level 1: 2 x 2 cells"]
    assert draw_answers([answered()], "title").legends == []


@pytest.mark.parametrize(
    ("answer", "truth", "colour"),
    [("7", "7", RIGHT), (" Yes ", "yes", RIGHT), ("7", "3", WRONG), ("", "3", WRONG),
     ("7", None, NEUTRAL)],
)  # fmt: skip
def test_right_and_wrong_answers_have_their_colours(
    answer: str, truth: str | None, colour: str
) -> None:
    (axes,) = drawn(draw_answers([answered(answer, truth)], "title"))
    assert to_hex(axes.texts[0].get_color()) == colour
    assert len({RIGHT, WRONG, NEUTRAL}) == 3


def test_a_long_question_is_wrapped_at_words() -> None:
    lines = wrap("word " * 20).splitlines()
    assert len(lines) == 3
    assert all(len(line) <= 44 and set(line.split()) == {"word"} for line in lines)


def test_a_saved_figure_is_a_readable_png_and_all_there_is(tmp_path: Path) -> None:
    save_figure(draw_answers([answered()], "title"), tmp_path / "folder" / "kept.png")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["kept.png"]
    with Image.open(tmp_path / "folder" / "kept.png") as picture:
        assert picture.format == "PNG"
        picture.load()
        assert min(picture.size) > 200


def test_kept_cells_are_bright_and_dropped_ones_dark_where_they_stand(tmp_path: Path) -> None:
    """Looks at the rendered pixels in the middle of each cell of a white image."""
    kept = [(0, 1), (1, 2)]
    figure = draw_answers([answered(kept=kept)], "title")
    save_figure(figure, tmp_path / "kept.png")
    with Image.open(tmp_path / "kept.png") as picture:
        pixels = np.asarray(picture.convert("L"), dtype=int)
    (axes,) = drawn(figure)
    to_share = axes.transData + figure.transFigure.inverted()
    for row in range(2):
        for column in range(3):
            x, y = to_share.transform((column + 0.5, row + 0.5))
            found = pixels[round((1 - y) * pixels.shape[0]), round(x * pixels.shape[1])]
            expected = 255 if (row, column) in kept else 255 * DIMMED
            assert found == pytest.approx(expected, abs=8), (row, column)


def test_an_image_keeps_its_proportions_though_its_cells_are_not_square() -> None:
    white = Image.new("RGB", (96, 64), "white")
    item = Answered(white, "Which?", "7", "7", allocation(4, 3, [(0, 0)]))
    figure = draw_answers([item], "title")
    figure.savefig(io.BytesIO(), format="png")
    (axes,) = drawn(figure)
    box = axes.get_window_extent()
    assert box.width / box.height == pytest.approx(96 / 64, rel=0.02)


@pytest.mark.parametrize(
    "text",
    ["Is it $5 or {$6?", "What is $\\frac{1}{2$?", "a_b^c", "50 % & more \\ less", "<b>bold</b>"],
)
def test_signs_that_matplotlib_might_read_as_mathematics_are_drawn_as_they_are(
    text: str, tmp_path: Path
) -> None:
    save_figure(draw_answers([answered(question=text, answer=text)], "title"), tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()


@pytest.mark.parametrize(
    "answer",
    ["word " * 64, "x" * 300, "a\nb\nc", "\x00\x1b\x7f"],
    ids=["many words", "one long word", "several lines", "control characters"],
)
def test_whatever_a_model_answers_the_picture_stays_whole(answer: str, tmp_path: Path) -> None:
    """Warnings are errors here: matplotlib warns when a text leaves no room for the image."""
    figure = draw_answers([answered(answer=answer)], "title")
    save_figure(figure, tmp_path / "a.png")
    (axes,) = drawn(figure)
    assert axes.get_position().width > 0.3


@pytest.mark.filterwarnings("ignore:Glyph")  # matplotlib's own font has no such sign
def test_an_answer_without_glyphs_still_gives_a_picture(tmp_path: Path) -> None:
    save_figure(draw_answers([answered(answer="\u5341")], "title"), tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()
