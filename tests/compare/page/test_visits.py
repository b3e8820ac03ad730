"""What is remembered of visitors, and that it has an end."""

from __future__ import annotations

import pytest
from PIL import Image

from lightning_arrcoc.compare import CheckpointComparator, Contestant
from lightning_arrcoc.compare.page.history import rows_of
from lightning_arrcoc.compare.page.visits import MOST_ROWS, Visit, Visits


@pytest.fixture(scope="module")
def contestant(loaded) -> Contestant:
    comparator = CheckpointComparator(loaded, max_new_tokens=1)
    (found,) = comparator.compare(Image.new("RGB", (128, 96)), "what", ["random"])
    return found


def fill(visit: Visit, contestant: Contestant) -> None:
    rows = rows_of([contestant], "what", 10, "now")
    visit.remember([contestant], (128, 96), 10, rows)


def test_the_least_recent_visitor_is_forgotten_and_no_longer_answered(contestant) -> None:
    visits = Visits(2, 10**9)
    first, second = visits.of("first"), visits.of("second")
    fill(first, contestant)
    assert visits.of("first") is first
    number = second.begin()
    visits.of("third")
    assert len(visits) == 2
    assert visits.of("first") is first
    assert second.asking != number  # its answer stops
    assert visits.of("second") is not second


def test_bytes_are_bounded_as_well(contestant) -> None:
    one = Visit()
    fill(one, contestant)
    assert one.bytes > 100
    visits = Visits(100, 3 * one.bytes)
    for number in range(10):
        fill(visits.of(str(number)), contestant)
    visits.of("another")
    assert len(visits) <= 4


def test_history_has_an_end_too(contestant) -> None:
    visit = Visit()
    for _ in range(MOST_ROWS + 5):
        fill(visit, contestant)
    assert len(visit.rows) == MOST_ROWS


def test_a_closed_page_is_forgotten_and_what_it_asked_ends() -> None:
    visits = Visits(2, 10**9)
    visit = visits.of("one")
    number = visit.begin()
    visits.forget("one")
    visits.forget("nobody")
    assert len(visits) == 0
    assert visit.asking != number
