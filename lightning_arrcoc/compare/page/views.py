"""What contestants answered and why, as HTML."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from PIL import Image

from lightning_arrcoc.compare.contestants import BUILT_IN, Contestant
from lightning_arrcoc.compare.page.agreement import (
    choosers,
    hint,
    kept_by,
    shared_cells,
)
from lightning_arrcoc.compare.page.cells import CellMap, cell_map, outlines
from lightning_arrcoc.compare.page.history import Row, as_csv
from lightning_arrcoc.compare.page.pictures import thumbnail_url
from lightning_arrcoc.compare.page.rendering import render
from lightning_arrcoc.compare.page.visits import Outcome
from lightning_arrcoc.compare.timing import STAGES
from lightning_arrcoc.memory.readings import MIB
from lightning_arrcoc.pictures.kept import level_colour
from lightning_arrcoc.pictures.maps import OTHER_ENDS, SCORE_SCALE, channel_scale
from lightning_arrcoc.relevance import Allocation, Knowing
from lightning_arrcoc.relevance.balancing import TENSIONS

ASKS = {  # of a cell
    "information": "How much is there to see?",
    "perspectival": "Does it stand out from here?",
    "participatory": "Does it answer to the question?",
    "relevance": "All of it, weighed by the tensions",
}
PULLS = {  # what the two ends of a tension do
    "exploit": "what the question asks for, against what the picture shows by itself",
    "compress": "many coarse tokens, against few fine ones",
    "focus": "look-alikes count in full, against each counting less",
}
DENSE = 80  # tokens, from which on frames are thin; chosen by us: they would hide the picture
MOST_LISTED = 30  # questions of the history on the page; the file has all


def picture_view(image: Image.Image) -> str:
    """The picture that was asked about, once for all cards to draw from."""
    return render("asked", url=thumbnail_url(image), width=image.width, height=image.height)


def answers_view(
    outcomes: Sequence[Outcome],
    size: tuple[int, int],
    percent: float,
    shown: Mapping[str, Allocation] | None = None,
    preview: float | None = None,
    waiting: Sequence[str] = (),
) -> str:
    """A card for each contestant, with its tokens over the picture.

    Args:
        outcomes: answers and failures.
        size: width and height of the picture, in pixels.
        percent: the budget they answered with.
        shown: allocations to draw; None: those of the answers.
        preview: the budget those belong to, where it is another one.
        waiting: names whose answer is still to come.
    """
    answered = [one for one in outcomes if isinstance(one, Contestant)]
    drawn = shown or {one.name: one.allocation for one in answered}
    kept = {one.name: outlines(drawn[one.name]) for one in answered}
    levels = sorted({level for one in kept.values() for level in one.levels})
    return render(
        "answers",
        outcomes=outcomes, kept=kept, size=size, percent=percent, preview=preview,
        waiting=waiting, hint="" if waiting else hint(answered), built_in=BUILT_IN,
        tokens={name: len(allocation.levels) for name, allocation in drawn.items()},
        levels={level: level_colour(level) for level in levels}, dense=DENSE,
    )  # fmt: skip


def why_view(contestants: Sequence[Contestant], size: tuple[int, int]) -> str:
    """Scores, relevance and tensions of those who measure a picture."""
    seen = [
        {
            "name": one.name,
            "maps": [(score, ASKS[score.name], score.name in (*one.scorers, "relevance"))
                     for score in _scores(one)],
            "tensions": [
                (name, OTHER_ENDS[name], PULLS[name], value)
                for name, value in zip(TENSIONS, one.tensions.tolist(), strict=True)
            ],
        }
        for one in contestants
        if one.channels
    ]  # fmt: skip
    return render("why", seen=seen, size=size)


def _scores(one: Contestant) -> list[CellMap]:
    named = dict(zip(Knowing.NAMES, one.scores, strict=True)) | {"relevance": one.relevance}
    return [cell_map(name, values, SCORE_SCALE) for name, values in named.items()]


def agreement_view(
    contestants: Sequence[Contestant], shown: Mapping[str, Allocation], size: tuple[int, int]
) -> str:
    """Which cells how many of them keep, and what every two share."""
    kept = choosers(contestants, shown)
    if len(kept) < 2:
        return render("agreement", counts=[], names=list(kept), pairs=[], size=size)
    counts = kept_by(kept)
    return render(
        "agreement", counts=counts.tolist(), names=list(kept), pairs=shared_cells(kept), size=size
    )


def costs_view(contestants: Sequence[Contestant]) -> str:
    """Where the time went, and how high memory rose."""
    longest = max((one.times.total for one in contestants), default=0) or 1
    highest = max((one.peak_bytes for one in contestants), default=0) or 1
    rows = [
        {
            "name": one.name,
            "parts": [(stage, 1000 * part, 100 * part / longest)
                      for stage, part in zip(STAGES, one.times, strict=True)],
            "total_ms": 1000 * one.times.total,
            "swap_ms": 1000 * one.swap_s,
            "peak_mib": one.peak_bytes / MIB,
            "base_percent": 100 * one.base_bytes / highest,
            "more_percent": 100 * max(0, one.peak_bytes - one.base_bytes) / highest,
            "more_mib": max(0, one.peak_bytes - one.base_bytes) / MIB,
        }
        for one in contestants
    ]  # fmt: skip
    return render("costs", rows=rows, stages=STAGES)


def channels_view(contestants: Sequence[Contestant], size: tuple[int, int]) -> str:
    """Every texture channel by name, once for all who measure the same ones."""
    sets: dict[tuple[Any, ...], list[Contestant]] = {}
    for one in contestants:
        if one.channels:
            sets.setdefault(one.channels, []).append(one)
    groups = [
        {
            "names": [one.name for one in members],
            "channels": [
                (channel, cell_map(channel.name, values, channel_scale(channel)))
                for channel, values in zip(channels, members[0].textures, strict=True)
            ],
        }
        for channels, members in sets.items()
    ]
    return render("channels", groups=groups, size=size)


def history_view(rows: Sequence[Row]) -> str:
    """The last answers, and a file with all of them."""
    file = base64.b64encode(as_csv(rows).encode()).decode()
    questions = [
        list(answers)
        for _, answers in groupby(rows, lambda row: (row.time, row.question, row.budget_percent))
    ]
    return render(
        "history", questions=questions[::-1][:MOST_LISTED], count=len(questions), file=file
    )


def notice(text: str) -> str:
    """One line in place of answers."""
    return render("notice", text=text)
