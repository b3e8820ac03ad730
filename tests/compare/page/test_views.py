"""Views tell what contestants hold, and execute nothing of what they say."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from PIL import Image

from lightning_arrcoc.compare import CheckpointComparator, Contestant, reallocate
from lightning_arrcoc.compare.page import views
from lightning_arrcoc.compare.page.cells import cell_map, outlines
from lightning_arrcoc.compare.page.history import rows_of
from lightning_arrcoc.compare.page.pictures import picture_of
from lightning_arrcoc.compare.page.visits import Failed
from lightning_arrcoc.pictures.maps import Scale

SIZE = (128, 96)
HOSTILE = "<script>alert('1')</script> \"onload=x ${y} {{z}}"


@pytest.fixture(scope="module")
def contestants(loaded, checkpoints) -> list[Contestant]:
    comparator = CheckpointComparator(loaded, max_loaded=4, max_new_tokens=2)
    comparator.register_folder(checkpoints)
    pixels = torch.randint(256, (96, 128, 3), generator=torch.Generator().manual_seed(3))
    image = Image.fromarray(pixels.to(torch.uint8).numpy())
    names = ["full", "fixed", "core", "downsampled", "random", "forty"]
    return comparator.compare(image, "Which digit is red?", names, 0.5)


def hostile(one: Contestant) -> Contestant:
    return one._replace(name=HOSTILE, answer=HOSTILE)


def every_view(contestants: list[Contestant], question: str) -> dict[str, str]:
    allocations = {one.name: one.allocation for one in contestants}
    return {
        "answers": views.answers_view(contestants, SIZE, 50),
        "why": views.why_view(contestants, SIZE),
        "agreement": views.agreement_view(contestants, allocations, SIZE),
        "costs": views.costs_view(contestants),
        "channels": views.channels_view(contestants, SIZE),
        "history": views.history_view(rows_of(contestants, question, 50, "2026-11-22 10:00:00")),
    }


def test_nothing_that_is_said_becomes_a_part_of_the_page(contestants) -> None:
    changed = [hostile(contestants[2]), hostile(contestants[1])._replace(name=HOSTILE + "2")]
    shown = every_view(changed, HOSTILE)
    shown["notice"] = views.notice(HOSTILE)
    shown["failed"] = views.answers_view([Failed(HOSTILE, HOSTILE)], SIZE, 50)
    shown["waits"] = views.answers_view([], SIZE, 50, waiting=[HOSTILE])
    for name, html in shown.items():
        assert "<script" not in html, name
        assert '"onload' not in html, name
        assert "&lt;script&gt;" in html, name


def test_each_has_a_card_with_its_tokens(contestants) -> None:
    html = views.answers_view(contestants, SIZE, 50)
    assert re.findall(r'data-name="(\w+)"', html) == [one.name for one in contestants]
    told = [int(number) for number in re.findall(r"<b>(\d+)</b> of 12 tokens", html)]
    assert told == [one.tokens for one in contestants]
    assert html.count("built in") == 3


def test_outlines_cover_what_is_kept_and_leave_out_what_is_not(contestants) -> None:
    for one in contestants:
        drawn = outlines(one.allocation)
        levels = torch.tensor(list(map(int, drawn.values.split())))
        assert (levels >= 0).equal(one.allocation.covered.flatten())
        assert sum(path.count("M") for path in drawn.levels.values()) == one.tokens


def test_a_preview_shows_other_tokens_and_the_same_answers(contestants) -> None:
    shown = {one.name: reallocate(one, 0.25) for one in contestants}
    html = views.answers_view(contestants, SIZE, 50, shown, 25)
    told = re.findall(r"<b>(\d+)</b> of 12 tokens", html)
    assert told == [str(len(shown[one.name].levels)) for one in contestants]
    assert 'id="preview"' in html
    assert 'id="preview"' not in views.answers_view(contestants, SIZE, 50)


def test_scores_tensions_and_names_of_those_who_measure(contestants) -> None:
    html = views.why_view(contestants, SIZE)
    assert re.findall(r"<h3>(\w+)</h3>", html) == ["fixed", "core", "forty"]
    assert html.count("(not heard)") == 1  # `fixed` leaves one scorer out
    assert html.count('class="track"') == 3 * 3
    assert "None of these measures" in views.why_view(contestants[:1], SIZE)


def test_channels_stand_there_by_name_once_for_all_who_measure_them(contestants) -> None:
    html = views.channels_view(contestants, SIZE)
    assert "13 channels <small>measured by fixed, core</small>" in html
    assert "40 channels <small>measured by forty</small>" in html
    for channel in contestants[-1].channels:
        assert f"<b>{channel.name}</b>" in html


def test_overlap_is_told_of_those_who_choose(contestants) -> None:
    allocations = {one.name: one.allocation for one in contestants}
    html = views.agreement_view(contestants, allocations, SIZE)
    assert "full and" not in html
    assert "fixed and core" in html
    one, other = (allocations[name].covered for name in ("fixed", "core"))
    assert f"{int((one & other).sum())} of {int((one | other).sum())}" in html
    assert "Compare two who choose" in views.agreement_view(contestants[:2], allocations, SIZE)


def test_bars_tell_time_and_memory(contestants) -> None:
    html = views.costs_view(contestants)
    for one in contestants:
        assert f"{1000 * one.times.total:.0f}&#8239;ms" in html
    shares = [float(width) for width in re.findall(r"width: ([\d.]+)%", html)]
    assert max(shares) <= 100


def test_history_has_a_line_for_each_question(contestants) -> None:
    rows = rows_of(contestants, "one", 50, "2026-11-22 10:00:00")
    rows += rows_of(contestants[:2], "two", 50, "2026-11-22 10:00:01")
    html = views.history_view(rows)
    assert html.count("<li>") == 2
    assert html.index("two") < html.index("one")
    assert 'download="comparisons.csv"' in html
    assert "Nothing was asked" in views.history_view([])


def colours(values: Any, scale: Scale) -> list[tuple[int, ...]]:
    found = cell_map("a", torch.tensor(values), scale)
    return list(picture_of(found.url, 100).get_flattened_data())


def test_a_map_is_spread_over_what_is_there_and_two_signs_keep_their_middle() -> None:
    plain = Scale(0, 1, "gray")
    assert colours([[0.2, 0.3]], plain) == [(0, 0, 0), (255, 255, 255)]
    assert cell_map("a", torch.tensor([[0.2, 0.3]]), plain).values == "20 30"
    low, zero, high = colours([[-0.1, 0.0, 0.2]], Scale(-1, 1, "gray"))
    assert (zero[0], high[0]) == (128, 255)
    assert 0 < low[0] < 128


def test_a_map_of_one_value_shows_no_noise() -> None:
    shades = [red for red, _, _ in colours([[0.14, 0.14001, 0.13999]], Scale(0, 1, "gray"))]
    assert max(shades) - min(shades) <= 1
