"""What happens when a visitor asks, drags and leaves."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lightning_arrcoc.compare import CheckpointComparator
from lightning_arrcoc.compare import comparator as comparing
from lightning_arrcoc.compare.page.asking import Page, Shown
from lightning_arrcoc.compare.page.pictures import png_url
from lightning_arrcoc.compare.page.settings import MOST_QUESTION, SINGLE, PageSettings

QUESTION = "Which digit is red?"
ME = "session"


@pytest.fixture
def page(comparator: CheckpointComparator) -> Page:
    return Page(comparator, PageSettings(max_pixels=128 * 96))


@pytest.fixture
def ask(page: Page, image: Image.Image) -> Callable[..., list[Shown]]:
    def asked(names: Any = ("core",), session: str = ME, **changed: Any) -> list[Shown]:
        given = {"picture": png_url(image), "question": QUESTION, "percent": 50} | changed
        return list(page.ask(names=list(names), session=session, **given))

    return asked


def names_in(shown: Shown) -> list[str]:
    return re.findall(r'data-name="([\w/-]+)"', shown.answers or "")


def tokens_in(shown: Shown) -> list[int]:
    return [
        int(number) for number in re.findall(r"<b>(\d+)</b> of \d+ tokens", shown.answers or "")
    ]


def test_each_answer_is_shown_as_soon_as_it_is_there(ask) -> None:
    shown = ask(["full", "core", "fixed"])
    assert [names_in(one) for one in shown] == [
        [], ["full"], ["full", "core"], ["full", "core", "fixed"],
    ]  # fmt: skip
    assert shown[0].picture is not None
    assert all(part is not None for part in shown[-1][1:])
    assert all(one.why is None for one in shown[:-1])


def test_dragging_computes_nothing_but_allocations(ask, page, monkeypatch) -> None:
    before = ask(["full", "core", "random", "downsampled"])[-1]

    def forbidden(*_: Any) -> None:
        raise AssertionError("dragging asked the model")

    monkeypatch.setattr(comparing, "answer", forbidden)
    monkeypatch.setattr(comparing, "ask", forbidden)
    with page.comparator._line.turn(1):  # nor waits for it
        dragged = page.slide(25, ME)
        back = page.slide(50, ME)
    assert tokens_in(before) == [12, 6, 6, 6]
    assert tokens_in(dragged) == [12, 3, 3, 3]
    assert 'id="preview"' in str(dragged.answers)
    assert re.findall("<path.*", str(back.answers)) == re.findall("<path.*", str(before.answers))
    assert dragged.why is dragged.history is None


def test_dragging_before_anything_was_asked_does_nothing(page: Page) -> None:
    assert page.slide(25, "nobody") == Shown()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"question": "  "}, "question is empty"),
        ({"question": None}, "question is empty"),
        ({"question": "x" * (MOST_QUESTION + 1)}, f"at most {MOST_QUESTION}"),
        ({"percent": 0}, "expected 1 to 100"),
        ({"percent": 101}, "expected 1 to 100"),
        ({"percent": float("nan")}, "expected 1 to 100"),
        ({"percent": True}, "expected 1 to 100"),
        ({"percent": "10"}, "expected 1 to 100"),
        ({"picture": None}, "no picture yet"),
        ({"picture": "../../etc/passwd"}, "expected PNG or WebP"),
        ({"names": []}, "Choose one to 4"),
        ({"names": ["core", "fixed", "full", "random", "forty"]}, "Choose one to 4"),
        ({"names": ["../../etc/passwd"]}, "There is no checkpoint"),
        ({"names": ["/etc/passwd"]}, "There is no checkpoint"),
        ({"names": ["core.ckpt"]}, "There is no checkpoint"),
        ({"names": [{"path": "core"}]}, "There is no checkpoint"),
        ({"names": [["core"]]}, "There is no checkpoint"),
        ({"question": "<|image_pad|>"}, "Questions must not contain"),
    ],
)
def test_what_cannot_be_asked_is_said_in_place_of_the_answers(
    changed: dict[str, Any], words: str, ask, page: Page, image: Image.Image
) -> None:
    (*_, last) = ask(**changed)
    assert 'role="alert"' in str(last.answers)
    assert words in str(last.answers)


def test_names_that_are_no_list_are_refused(page: Page, image: Image.Image) -> None:
    (only,) = page.ask(png_url(image), QUESTION, "core", 50, ME)
    assert "Choose one to 4" in str(only.answers)


def test_a_picture_beyond_the_cap_is_refused(ask) -> None:
    (only,) = ask(picture=png_url(Image.new("RGB", (129, 96))))
    assert "129x96 pixels; expected at most 12288" in str(only.answers)


def test_a_checkpoint_that_is_deleted_takes_nothing_from_the_others(
    loaded, save, image: Image.Image
) -> None:
    kept, gone = save("kept"), save("gone", seed=1)
    comparator = CheckpointComparator(loaded, max_new_tokens=2)
    comparator.register_folder(kept.parent)
    page = Page(comparator, PageSettings(), kept.parent)
    given = (png_url(image), QUESTION, ["full", "gone", "kept"], 50, ME)
    while_asked = page.ask(*given)
    assert names_in(next(while_asked)) == []
    assert names_in(next(while_asked)) == ["full"]
    gone.unlink()  # while it stands in line
    (*_, last) = while_asked
    assert names_in(last) == ["full", "gone", "kept"]
    assert "is gone. Choose another" in str(last.answers)
    assert len(tokens_in(last)) == 2
    assert str(kept.parent) not in str(last.answers)
    # It may come back, or another may come.
    save("gone", seed=2)
    save("third", seed=3)
    assert page.names_now()[3:] == ["gone", "kept", "third"]
    (*_, again) = page.ask(*given)
    assert len(tokens_in(again)) == 3


def test_a_damaged_checkpoint_says_so_without_its_path(loaded, save, image, tmp_path: Path) -> None:
    path = save("one")
    path.write_bytes(path.read_bytes()[:-100])
    comparator = CheckpointComparator(loaded)
    comparator.register_folder(tmp_path)
    (*_, last) = Page(comparator, PageSettings()).ask(png_url(image), QUESTION, ["one"], 50, ME)
    assert "damaged" in str(last.answers)
    assert str(tmp_path) not in str(last.answers)


def test_asking_anew_ends_what_was_asked_before(page: Page, image: Image.Image, ask) -> None:
    first = page.ask(png_url(image), QUESTION, ["full", "core"], 50, ME)
    next(first), next(first)
    ask(["fixed"])
    (last,) = first
    assert "Stopped" in str(last.answers)


def test_a_stop_button_ends_it_and_keeps_the_history(page: Page, image: Image.Image, ask) -> None:
    ask(["full"])
    running = page.ask(png_url(image), QUESTION, ["full", "core"], 50, ME)
    next(running), next(running)
    page.visits.of(ME).stop()
    (last,) = running
    assert "Stopped" in str(last.answers)
    assert len(page.visits.of(ME).rows) == 1


def test_visitors_see_their_own_history_alone(ask) -> None:
    ask(["full"], session="one", question="mine")
    other = ask(["full"], session="two", question="yours")[-1]
    assert "yours" in str(other.history)
    assert "mine" not in str(other.history)


def test_a_full_line_says_so(loaded, image: Image.Image) -> None:
    comparator = CheckpointComparator(loaded, max_waiting=0)
    page, held, done = Page(comparator, PageSettings()), threading.Event(), threading.Event()

    def hold() -> None:
        with comparator._line.turn(10):
            held.set()
            done.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(10)
    try:
        (*_, last) = page.ask(png_url(image), QUESTION, ["full"], 50, ME)
    finally:
        done.set()
        holder.join()
    assert "Try again in a moment" in str(last.answers)


def test_what_nobody_expected_is_logged_and_not_told(ask, monkeypatch, caplog) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("/home/somebody/secret")

    monkeypatch.setattr(comparing, "answer", broken)
    (*_, last) = ask()
    assert "Something went wrong" in str(last.answers)
    assert "secret" not in str(last.answers)
    assert "secret" in caplog.text


def test_a_hosted_page_asks_its_one_checkpoint_and_keeps_nothing(comparator, image) -> None:
    page = Page(comparator, PageSettings(mode=SINGLE, checkpoint="core"))
    (*_, last) = page.ask(png_url(image), QUESTION, ["full", "fixed"], 50, ME)
    assert names_in(last) == ["core"]
    assert len(page.visits) == 0
    assert page.slide(25, ME) == Shown()


def test_the_picture_of_the_cards_is_the_one_that_was_asked_about(ask) -> None:
    white = Image.new("RGB", (128, 96), "white")
    first = ask(picture=png_url(white))[0]
    assert 'id="asked-picture"' in str(first.picture)
    assert torch.tensor(len(first.picture or "")) < 2000
