"""The page that a reader gets."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from lightning_arrcoc import cli
from lightning_arrcoc.loggers.jsonl_file import JsonlFile
from lightning_arrcoc.report.panels import MOST_PANELS

from .conftest import Write, line

Told = Callable[..., str]


class Page(HTMLParser):
    """Elements of a page with their attributes, and all of its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += " " + data

    def classes(self, name: str) -> int:
        """How many elements have it."""
        return sum(name in (found.get("class") or "").split() for _, found in self.elements)

    @property
    def text(self) -> str:
        return " ".join(self.words.split())


def call(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["lightning_arrcoc", "report", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0)


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    """The page about some runs."""

    def tell(*runs: Path) -> str:
        out = tmp_path / "told" / "page.html"
        assert call(monkeypatch, *runs, "--out", out) == 0
        return out.read_text(encoding="utf-8")

    return tell


# ------------------------------------------------------------------------------------ the command


def test_page_and_picture_go_into_the_run_and_where_is_said(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write()
    assert call(monkeypatch, folder / "log.jsonl") == 0
    shown = capsys.readouterr().out
    assert str(folder / "report.html") in shown
    assert "one: Ran to its end." in shown
    with Image.open(folder / "report.png") as picture:
        assert min(picture.size) > 200
        assert len(picture.convert("RGB").getcolors(2**24) or []) > 50
    assert sorted(path.name for path in folder.iterdir()) == [
        "log.jsonl", "report.html", "report.png"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["empty"], "There is no run in 'empty'; expected log.jsonl"),
        (["nowhere"], "Nothing at 'nowhere'; expected the folder of a run"),
        (["one", "--out", "page.txt"], "--out 'page.txt' is no page; expected a name that ends"),
        (["one", "--out", "one/log.jsonl/page.html"], "File exists"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_exit_code_2(
    words: list[str], said: str, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, *words) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert said in error


def test_a_log_that_may_not_be_read_is_one_line(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, opens = write(), Path.open

    def refuse(path: Path, *words: str) -> object:
        if path.name == "log.jsonl":
            raise PermissionError(13, "Permission denied", str(path))
        return opens(path, *words)

    monkeypatch.setattr(Path, "open", refuse)
    assert call(monkeypatch, folder) == 2
    assert "Permission denied" in capsys.readouterr().err


def test_reading_logs_loads_neither_torch_nor_lightning() -> None:
    code = (
        "import sys, lightning_arrcoc.report.command; "
        "print(sorted({'torch', 'lightning', 'hydra', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --------------------------------------------------------------------------------------- the page


def test_every_part_of_a_run_is_told(write: Write, told: Told) -> None:
    skipped = [line("batch/skipped", step, reason="not finite") for step in (21, 22)]
    saved = line("checkpoint/saved", 30, path="a.ckpt")
    folder = write("one", *skipped, saved, **{
        "grad/norm": 1.5, "memory/rss_gib": 0.5, "memory/train_peak_gib": 0.25,
    })  # fmt: skip
    page = Page(told(folder))
    for words in (
        "Best val/loss 0.01695 , the lowest, at step 59.",
        "Ran to its end.", "60 steps", "2 x H200", "16 GiB of memory",
        "1,000 parameters, 10 trained",
        "commit 01234567, with changes that are not committed", "torch 2.13.0",
        "lower, by its name", "batch/skipped 2 times", "not finite", "21 to 22",
        "checkpoint/saved", "whole run, main memory 0.500", "train 0.250",
        "Never changed: grad/norm",
    ):  # fmt: skip
        assert words in page.text, words
    assert page.classes("curve") == 2 * 3  # on both scales: val, and train raw and smooth
    assert page.classes("mark") == 2 * 2  # two skipped batches are one mark


def test_a_file_needs_nothing_else_and_runs_nothing(write: Write, told: Told) -> None:
    html = told(write())
    tags = {tag for tag, _ in Page(html).elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    assert "default-src 'none'" in html
    assert not re.findall(r"(?:src|href)=\"(?!#)", html)
    assert "url(h" not in html
    assert "@import" not in html


def test_what_comes_from_a_log_is_text_whatever_it_looks_like(write: Write, told: Told) -> None:
    evil = "<script>alert(1)</script>"
    attack = f'"><svg onload=alert(1)>{evil}</title></style>{{{{ 7*7 }}}}'
    folder = write(
        "one", line("log", 3, message=attack, level="WARNING"),
        line(attack, 4, reason=attack), line("run/stopped", 5, reason=attack),
        config={attack: attack}, **{attack: 1.0, f"grad/{attack}": 2.0},
    )  # fmt: skip
    other = write("two", config={attack: "else"}, **{f"val/{attack}": math.nan})
    html = told(folder, other)
    page = Page(html)
    assert evil in page.text
    assert "{{ 7*7 }}" in page.text
    assert not any(tag == "script" for tag, _ in page.elements)
    assert not any("onload" in attributes for _, attributes in page.elements)
    assert "<script" not in html


def test_a_name_with_mathematics_or_other_letters_is_drawn(write: Write, told: Told) -> None:
    page = Page(told(write("\u8bad\u7ec3 $x_{$", **{"val/$\\frac{$": 1.0, "\u635f\u5931$": 2.0})))
    assert "\u635f\u5931$" in page.text


def test_secrets_do_not_reach_the_page(write: Write, told: Told) -> None:
    token = "hf_" + "b" * 30
    folder = write("one", line("log", 2, message=token, level="WARNING"),
                   config={"api_key": "sesame-open", "url": "https://me:pass@host/x"},
                   **{f"val/{token}": 1.0})  # fmt: skip
    html = told(folder)
    for secret in (token, "sesame-open", "me:pass"):
        assert secret not in html


def test_a_killed_run_is_told_as_far_as_it_came(write: Write, told: Told) -> None:
    folder = write(ended=False)
    with (folder / "log.jsonl").open("ab") as file:
        file.write(b'garbage\n{"event":"met')
    text = Page(told(folder)).text
    for words in ("no footer", "killed, crashed, or still runs", "1 unreadable line left out",
                  "The last line is cut short"):  # fmt: skip
        assert words in text


def test_runs_are_compared_and_only_what_differs_is_shown(write: Write, told: Told) -> None:
    one = write("one", config={"lr": 0.1, "seed": 0, "deep": {"width": 3}})
    two = write("two", config={"lr": 0.2, "seed": 0, "deep": {"width": 3}}, offset=1.0)
    page = Page(told(one, two))
    differing = page.text.split("What differs between the runs")[1].split("Set up")[0]
    assert "lr 0.1 0.2" in differing
    assert "seed" not in differing
    assert "width" not in differing
    assert "at step 59 by one" in page.text
    assert page.classes("wins") == 1


def test_alike_runs_differ_in_nothing_and_none_wins(write: Write, told: Told) -> None:
    page = Page(told(write("one"), write("two")))
    assert "Nothing that the logs tell" in page.text
    assert "at step 59 by one and two" in page.text
    assert page.classes("wins") == 0


def test_a_monitored_metric_is_the_one_that_runs_are_told_by(write: Write, told: Told) -> None:
    config = {"callbacks": {"checkpoint": {"monitor": "val/zeal", "mode": "max"}}}
    zeal = [line("metrics", step, metrics={"val/zeal": step % 7}) for step in range(20)]
    once = line("metrics", 20, metrics={"test/zeal": 0.75})
    page = Page(told(write("one", *zeal, once, config=config)))
    assert "Best val/zeal 6 , the highest, at step 6." in page.text
    assert "higher, as configured" in page.text
    assert "Measured once metric one test/zeal 0.75" in page.text


def test_a_run_without_metrics_is_told_all_the_same(write: Write, told: Told) -> None:
    page = Page(told(write(points=0)))
    assert "No metric was logged." in page.text
    assert page.classes("chart") == 0


def test_metrics_that_were_never_a_number_are_named_and_not_drawn(write: Write, told: Told) -> None:
    page = Page(told(write("one", **{"val/odd": math.nan, "grad/norm": math.inf})))
    assert "val/odd: none of its 60 values is finite" in page.text
    assert "grad/norm: none of its 60 values is finite" in page.text
    assert page.classes("chart") == 1


def test_a_curve_that_ends_in_nan_says_where_and_nan_is_never_best(
    tmp_path: Path, told: Told
) -> None:
    file = JsonlFile(tmp_path / "log.jsonl")
    for step, value in enumerate([3.0, 2.0, math.inf, math.nan, -math.inf]):
        file.append(line("metrics", step, metrics={"val/loss": value}))
    text = Page(told(tmp_path)).text
    assert "3 values not finite, the first at step 2" in text
    assert "Best val/loss 2 , the lowest, at step 1" in text


def test_more_quantities_than_a_page_can_hold_are_named(write: Write, told: Told) -> None:
    file = JsonlFile(write() / "log.jsonl")
    for step in range(3):
        file.append(line("metrics", step, metrics={f"x{n:03}": step for n in range(200)}))
    page = Page(told(file.path.parent))
    assert page.classes("chart") == MOST_PANELS
    assert f"{200 + 1 - MOST_PANELS} more quantities are not drawn" in page.text


def test_ten_long_runs_make_a_page_of_a_few_megabytes(tmp_path: Path, told: Told) -> None:
    for run in range(10):
        file = JsonlFile(tmp_path / f"run{run}" / "log.jsonl")
        lines = 100_000 if run == 0 else 1_000
        for step in range(lines):
            noise = math.sin(step * 12.9898) * 43758.5453 % 1
            file.append(line("metrics", step * 100_000 // lines, metrics={
                f"{area}/{name}": noise + run for area in ("train", "grad") for name in "abcd"
            }))  # fmt: skip
        file.close()
    html = told(tmp_path)
    assert len(html) < 1.5e6  # 0.6 MB; drawn point by point more than 3
    assert Page(html).classes("run9") > 10


def test_many_events_in_many_runs_do_not_swell_the_page(tmp_path: Path, told: Told) -> None:
    for run in range(10):
        file = JsonlFile(tmp_path / f"run{run}" / "log.jsonl")
        for step in range(400):
            file.append(line("metrics", step, metrics={f"x{n}": step % 9 + n for n in range(6)}))
            for name in "abcdefgh":
                file.append(line(f"event/{name}", step, reason="for a reason of some length" * 9))
        file.close()
    html = told(tmp_path)
    assert len(html) < 4e6
    assert Page(html).classes("mark") <= 8000
