"""The page as a browser lays it out, at a desk, in the hand and in the dark."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lightning_arrcoc import cli

from .conftest import Write, line

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
HEIGHT = 2400

pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser: none of {BROWSERS} is found")

# Put into a copy of the page, whose own policy lets no script run; what it finds replaces the page.
PROBE = """<script>addEventListener("load", () => {
  const isShown = one => one.getClientRects().length > 0;
  const shown = [...document.querySelectorAll("svg")];
  const boxes = shown.map(svg => svg.getBoundingClientRect());
  const curves = [...document.querySelectorAll(".curve")].filter(isShown);
  const found = {
    height: document.documentElement.scrollHeight,
    wide: document.documentElement.scrollWidth - innerWidth,
    charts: shown.length,
    smallest: Math.min(...boxes.map(box => Math.min(box.width, box.height))),
    curves: curves.length,
    drawn: curves.filter(one => one.getBBox().width > 0).length,
    marks: [...document.querySelectorAll(".mark")].filter(isShown).length,
    font: Math.min(...[...document.querySelectorAll("svg text")].filter(isShown).map(
      one => one.getBoundingClientRect().height)),
    ink: getComputedStyle(document.body).backgroundColor,
  };
  document.documentElement.textContent = "FOUND" + JSON.stringify(found) + "END";
})</script>"""


def browse(page: Path, width: int, *options: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    return subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         f"--user-data-dir={page.parent / 'profile'}", "--enable-logging=stderr",
         f"--window-size={width},{HEIGHT}", *options, page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip


def measure(page: Path, width: int, *options: str) -> dict[str, Any]:
    html = re.sub(r"<meta http-equiv.*?>", PROBE, page.read_text(encoding="utf-8"), count=1)
    probed = page.with_name("probed.html")
    probed.write_text(html, encoding="utf-8")
    done = browse(probed, width, *options, "--dump-dom")
    assert "CONSOLE" not in done.stderr
    found: dict[str, Any] = json.loads(unescape(done.stdout.split("FOUND")[1].split("END")[0]))
    return found


@pytest.fixture
def page(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """About two runs: loss on train and val, and one other curve in each."""
    said = "<script>document.title = 'taken'</script>"
    for name in ("one", "two"):
        skipped = line("batch/skipped", 20, reason=said)
        folder = write(name, skipped, points=100, offset=float(name == "two"))
        log = (folder / "log.jsonl").read_text().splitlines()
        for step in range(30):
            log.append(json.dumps(line("metrics", step, metrics={"grad/norm": step % 7 + 1.0})))
        (folder / "log.jsonl").write_text("\n".join([*log, ""]))
    monkeypatch.setattr(sys, "argv", ["lightning_arrcoc", "report", str(tmp_path)])
    with pytest.raises(SystemExit):
        cli.main()
    return tmp_path / "report.html"


@pytest.mark.parametrize("width", [1280, 500])
def test_everything_is_laid_out_at_a_desk_and_in_the_hand(page: Path, width: int) -> None:
    found = measure(page, width)
    assert found["charts"] == 2
    assert found["smallest"] > 100
    assert found["curves"] == found["drawn"] == 2 * 3 + 2  # train raw and smooth, val; grad/norm
    assert found["marks"] == 2 * 2
    assert found["wide"] <= 0  # nothing to scroll sideways
    assert found["height"] > 800
    assert found["font"] >= 8


def test_a_dark_screen_gets_a_dark_page_and_a_picture_of_it_has_colours(page: Path) -> None:
    dark = "--blink-settings=preferredColorScheme=0"
    assert measure(page, 1280)["ink"] == "rgb(246, 246, 243)"
    assert measure(page, 1280, dark)["ink"] == "rgb(19, 21, 24)"
    shot = page.with_name("shot.png")
    done = browse(page, 1280, dark, f"--screenshot={shot}")
    assert "CONSOLE" not in done.stderr  # nothing asked for what the policy refuses
    with Image.open(shot) as picture:
        assert picture.size == (1280, HEIGHT)
        assert len(picture.convert("RGB").getcolors(2**24) or []) > 500
