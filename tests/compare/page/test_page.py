"""The page in a real browser: asked, dragged, read in the hand and in the dark."""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
from PIL import Image

from .conftest import Server

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
HOSTILE = "${document.title='taken'} {{value}} <img src=x onerror=\"document.title='taken'\">"
SMALLEST_LETTERS = """Math.min(...[...document.querySelectorAll("main *")]
  .filter(one => !one.children.length && one.textContent.trim() && one.getClientRects().length)
  .map(one => parseFloat(getComputedStyle(one).fontSize)))"""
SOON_MS = 60_000  # a busy machine is no failure

pytestmark = [
    pytest.mark.skipif(find_spec("playwright") is None, reason="playwright is not installed"),
    pytest.mark.skipif(BROWSER is None, reason=f"no browser: none of {BROWSERS} is found"),
]


@pytest.fixture(scope="module")
def browser(server: Server) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield launched
        launched.close()


class Visit:
    """An open page, with all that it asked the network for and complained about."""

    def __init__(self, browser: Any, server: Server, width: int = 1280, dark: bool = False) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light",
            has_touch=width < 600,
        )  # fmt: skip
        self.page = self.context.new_page()
        self.page.set_default_timeout(SOON_MS)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: self.complaints.append(message.text)
                     if message.type in ("error", "warning") else None)  # fmt: skip
        self.page.goto(server.url)
        self.page.wait_for_selector("#ask")
        self.page.wait_for_selector("#picture .drop")

    def ask(self) -> None:
        before = self.page.locator("#history li").count()
        self.page.click("#ask")
        self.page.get_by_role("tab", name="History").click()
        self.page.wait_for_function(f"document.querySelectorAll('#history li').length > {before}")
        self.page.get_by_role("tab", name="Why").click()
        self.page.wait_for_selector("#why .reasons, #why .quiet")

    def texts(self, where: str) -> list[str]:
        return self.page.locator(where).all_inner_texts()

    @property
    def tokens(self) -> list[int]:
        return [int(text) for text in self.texts(".card .caption b")]

    @property
    def title(self) -> str:
        return str(self.page.title())


@pytest.fixture(scope="module")
def asked(browser: Any, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Visit:
    """One visitor, who uploads a photograph (a JPEG that calls itself a PNG) and asks."""
    visit = Visit(browser, server)
    photo = tmp_path_factory.mktemp("photo") / "photo.png"
    pixels = Image.effect_mandelbrot((300, 200), (-2, -1, 1, 1), 30).convert("RGB")
    pixels.save(photo, "JPEG")
    visit.page.set_input_files("#picture input[type=file]", photo)
    visit.page.wait_for_function(
        "document.querySelector('#picture .said').textContent.includes('300')"
    )
    visit.page.fill("#question textarea", HOSTILE)
    visit.ask()
    return visit


def test_nothing_is_loaded_from_elsewhere(asked: Visit, server: Server) -> None:
    here = urlparse(server.url).netloc
    loaded = [url for url in asked.requests if not url.startswith(("data:", "blob:"))]
    elsewhere = [url for url in loaded if urlparse(url).netloc != here]
    assert elsewhere == []
    assert len(asked.requests) > 10
    assert asked.complaints == []


def test_the_browser_sends_png_whatever_the_file_was(asked: Visit, server: Server) -> None:
    source = asked.page.get_attribute("#picture .drop img", "src")
    assert str(source).startswith("data:image/png;base64,")
    assert server.notes.read_text() == ""  # no JPEG reached Pillow
    assert not any("upload" in url for url in asked.requests)


def test_answers_stand_side_by_side_over_the_picture(asked: Visit) -> None:
    assert asked.texts(".card h3") == ["full\nbuilt in", "adapted", "core", "fixed"]
    boxes = [card.bounding_box() for card in asked.page.locator(".card").all()]
    assert len({box["y"] for box in boxes if box}) == 1
    assert asked.page.locator(".card svg use").count() == 4
    assert asked.page.evaluate("document.querySelector('#asked-picture').getBBox().width") == 300


def test_a_question_is_text_and_nothing_else(asked: Visit) -> None:
    asked.page.get_by_role("tab", name="History").click()
    assert HOSTILE in " ".join(asked.texts("#history li p"))
    assert asked.title == "Compare checkpoints"


def test_dragging_shows_at_once_what_would_be_kept(asked: Visit) -> None:
    answers, before = asked.texts(".card .answer"), asked.tokens
    slider = asked.page.locator("#budget input[type=range]")
    slider.focus()
    for _ in range(30):
        slider.press("ArrowRight")
    asked.page.wait_for_selector("#preview >> text=those of 40")
    preview = asked.tokens
    assert [later > earlier for earlier, later in zip(before, preview, strict=True)] == [
        False, True, True, True,
    ]  # fmt: skip
    assert asked.texts(".card .answer") == answers
    for _ in range(30):
        slider.press("ArrowLeft")
    asked.page.wait_for_selector("#preview", state="detached")
    assert asked.tokens == before


def test_pointing_at_a_cell_reads_it_in_every_map(asked: Visit) -> None:
    asked.page.get_by_role("tab", name="Why").click()
    asked.page.locator(".card .cells").nth(1).hover(position={"x": 10, "y": 10})
    said = asked.texts(".card .at")
    assert all(re.fullmatch(r"dropped|kept|kept, ([24]) . \1 cells", text) for text in said), said
    read = asked.texts("#why .at")
    assert len(read) == 12
    assert all(re.fullmatch(r"\d\.\d\d", text) for text in read)
    assert asked.page.locator(".pointed .mark:visible").count() >= 16


def test_every_view_has_something_to_show(asked: Visit) -> None:
    for tab, inside in (
        ("Overlap", "#agreement table tbody tr"), ("Cost", "#costs .bar i"),
        ("Channels", "#channels figure"), ("Why", "#why .track"),
    ):  # fmt: skip
        asked.page.get_by_role("tab", name=tab).click()
        asked.page.wait_for_selector(inside, state="attached")
        assert asked.page.locator(inside).count() >= 3, tab


def test_the_history_is_downloaded_as_a_file_for_a_spreadsheet(asked: Visit) -> None:
    asked.page.fill("#question textarea", "=1+1")
    asked.ask()
    asked.page.get_by_role("tab", name="History").click()
    with asked.page.expect_download() as download:
        asked.page.click("#download")
    assert download.value.suggested_filename == "comparisons.csv"
    text = Path(download.value.path()).read_bytes().decode()
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert {row["question"] for row in rows} == {HOSTILE, "'=1+1"}
    assert {row["contestant"] for row in rows} == {"full", "adapted", "core", "fixed"}


def test_a_file_that_is_no_picture_is_refused_before_it_is_sent(
    asked: Visit, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    before = asked.page.get_attribute("#picture .drop img", "src")
    asked.page.set_input_files("#picture input[type=file]", tmp_path / "broken.png")
    asked.page.wait_for_selector("#picture .said >> text=was not taken")
    assert asked.page.get_attribute("#picture .drop img", "src") == before


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_a_desk_and_a_hand_by_day_and_by_night(
    width: int, dark: bool, browser: Any, server: Server, tmp_path: Path
) -> None:
    visit = Visit(browser, server, width, dark)
    visit.page.click("#picture .examples button >> nth=1")
    visit.ask()
    for tab in ("Overlap", "Cost", "Channels", "History", "Why"):
        visit.page.get_by_role("tab", name=tab).click()
        beyond = "document.documentElement.scrollWidth - innerWidth"
        assert visit.page.evaluate(beyond) <= 0, tab
    assert visit.page.evaluate(SMALLEST_LETTERS) >= 11
    ground = "getComputedStyle(document.body).backgroundColor"
    assert visit.page.evaluate(ground) == ("rgb(19, 21, 24)" if dark else "rgb(246, 246, 243)")
    across = {card.bounding_box()["x"] for card in visit.page.locator(".card").all()}
    assert len(across) == (4 if width == 1280 else 2)
    visit.page.screenshot(path=tmp_path / "shot.png", full_page=True)
    with Image.open(tmp_path / "shot.png") as shot:
        assert len(shot.convert("RGB").getcolors(2**24) or []) > 500
    assert visit.complaints == []
    visit.context.close()
