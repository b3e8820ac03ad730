"""Lines become samples in their order, in any process, and a bad line is named."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from hashlib import sha256
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch.utils.data import DataLoader

from lightning_arrcoc.data import jsonl as jsonl_module
from lightning_arrcoc.data.jsonl import JsonlQuestions
from lightning_arrcoc.data.sample import Turn

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes lines, given as text or as what JSON makes of them, beside three pictures."""
    for name, colour in (("red", (255, 0, 0)), ("green", (0, 255, 0)), ("blue", (0, 0, 255))):
        Image.new("RGB", (40, 20), colour).save(tmp_path / f"{name}.png")

    def lines(*lines: Any, name: str = "asked.jsonl", end: str = "\n") -> Path:
        path = tmp_path / name
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_bytes(end.join([*texts, ""]).encode())
        return path

    return lines


def line(name: str = "red.png", question: str = "What?", **rest: Any) -> dict[str, Any]:
    return {"image": name, "question": question, "answer": "7", **rest}


def questions(source: JsonlQuestions) -> list[str]:
    return [source[i].turns[0].question for i in range(len(source))]


def test_every_line_is_a_sample(write: Write) -> None:
    source = JsonlQuestions(
        write(
            line("red.png", "One?"),
            {"images": ["green.png", "blue.png"], "question": "Two?", "answers": ["a", "b", "b"]},
            line("blue.png", "Drei & ü?", family="umlaut"),
        )
    )
    assert len(source) == 3
    assert questions(source) == ["One?", "Two?", "Drei & ü?"]
    assert [source[i].family for i in range(3)] == ["all", "all", "umlaut"]
    assert [image.getpixel((0, 0)) for image in source[1].images] == [(0, 255, 0), (0, 0, 255)]
    assert source[1].turns == (Turn("Two?", "b", ("a", "b", "b")),)
    with pytest.raises(IndexError):
        source[3]
    with pytest.raises(IndexError):
        source[-1]


def test_digests_are_those_of_the_files(write: Write, tmp_path: Path) -> None:
    line = {"images": ["red.png", "blue.png"], "question": "?", "answer": "7"}
    sample = JsonlQuestions(write(line))[0]
    files = [tmp_path / "red.png", tmp_path / "blue.png"]
    assert sample.digests == tuple(sha256(file.read_bytes()).hexdigest() for file in files)


def test_blank_lines_windows_ends_a_mark_and_no_last_end_are_forgiven(write: Write) -> None:
    path = write(line(question="One?"), "", "   ", line(question="Two?"), end="\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().rstrip())
    source = JsonlQuestions(path)
    assert questions(source) == ["One?", "Two?"]
    assert source.where(int(source.rows[1])) == (str(path), 4)


def test_pictures_may_lie_in_another_folder(write: Write, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    path = write(line()).rename(tmp_path / "elsewhere" / "asked.jsonl")
    assert len(JsonlQuestions(path, tmp_path)[0].images) == 1
    with pytest.raises(ValueError, match=r"asked.jsonl, line 1: No picture 'red.png'"):
        JsonlQuestions(path)[0]


def test_lines_stay_in_the_file(write: Write) -> None:
    source = JsonlQuestions(write(*(line(question=f"{i} " + "x" * 1000) for i in range(200))))
    assert len(pickle.dumps(source)) < 8_000
    assert source[199].turns[0].question.startswith("199 ")


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_give_what_the_process_itself_gives(write: Write, start: str) -> None:
    source = JsonlQuestions(write(*(line(question=f"{i}?") for i in range(6))))
    loader = DataLoader(
        source, batch_size=None, num_workers=2, collate_fn=attrgetter("turns"),
        multiprocessing_context=start,
    )  # fmt: skip
    assert [turns[0].question for turns in loader] == [f"{i}?" for i in range(6)]


# ------------------------------------------------------------------------------------- bad lines


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('{"image": "red.png", "question": "?"}', "no answer; expected `answer` or `answers`"),
        ('{"image": "red.png"', "no JSON: "),
        ("[1, 2]", "a JSON list; expected one object a line. A list of samples becomes lines by"),
        ('"words"', "a JSON str; expected one object a line"),
        ("[" * 100_000, "no JSON: "),
        ("{}", "no picture"),
    ],
)
def test_a_bad_line_is_named_before_anything_is_drawn(write: Write, bad: str, message: str) -> None:
    path = write(line(), "", bad, line())
    with pytest.raises(ValueError, match=message) as caught:
        JsonlQuestions(path)
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert "on_bad_sample=skip" in str(caught.value)


def test_letters_that_are_no_utf8_are_named(write: Write) -> None:
    path = write(line(), line())
    path.write_bytes(path.read_bytes().replace(b"7", b"\xff"))
    with pytest.raises(ValueError, match=r"asked.jsonl, line 1: no JSON: 'utf-8' codec"):
        JsonlQuestions(path)


def test_a_list_of_all_samples_on_one_line_is_told_how_to_become_lines(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl_module, "MOST_LINE_BYTES", 1000)
    with pytest.raises(ValueError, match=r"line 2 is longer than .* jq -c"):
        JsonlQuestions(write(line(), [line()] * 100))


def test_a_bad_picture_is_named_when_it_is_drawn(write: Write, tmp_path: Path) -> None:
    (tmp_path / "half.png").write_bytes((tmp_path / "red.png").read_bytes()[:60])
    source = JsonlQuestions(write(line(), line("absent.png"), line("half.png"), line("../x.png")))
    assert len(source) == 4
    for index, message in enumerate(("'absent.png'", "'half.png' cannot be read", "out")):
        with pytest.raises(ValueError, match=rf"asked.jsonl, line {index + 2}: .*{message}"):
            source[index + 1]


def test_a_file_that_changes_under_a_run_stops_it(write: Write) -> None:
    path = write(line(), line())
    source = JsonlQuestions(path, on_bad_sample="skip")
    path.write_text(path.read_text() + json.dumps(line()))
    with pytest.raises(OSError, match="has changed since it was opened"):
        source[0]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("absent.jsonl", FileNotFoundError, "No file .*absent.jsonl'; expected one JSON object"),
        ("https://example.org/x.jsonl", ValueError, "is a URL; download the file of lines first"),
    ],
)
def test_a_file_that_is_not_there_is_named(
    tmp_path: Path, name: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        JsonlQuestions(name if "://" in name else tmp_path / name)


def test_an_empty_file_is_named(write: Write) -> None:
    with pytest.raises(ValueError, match=r"asked.jsonl' has no samples"):
        JsonlQuestions(write("", " "))


# ---------------------------------------------------------------------------------------- splits


def test_a_column_splits_a_file(write: Write) -> None:
    path = write(*(line(question=str(i), part=("train", "val")[i % 2]) for i in range(5)))
    assert questions(JsonlQuestions(path, split="val", split_column="part")) == ["1", "3"]
    assert questions(JsonlQuestions(path, split="train", split_column="part")) == ["0", "2", "4"]


def test_a_line_that_cannot_say_its_split_is_bad_for_each(write: Write) -> None:
    path = write(line(part="train"), "broken", line(), line(part="val"))
    with pytest.raises(ValueError, match=r"asked.jsonl, line 2: no JSON"):
        JsonlQuestions(path, split="val", split_column="part")
    source = JsonlQuestions(path, split="val", split_column="part", on_bad_sample="skip")
    assert len(source) == 1
    assert [(skipped.line, skipped.reason[:9]) for skipped in source.skipped] == [
        (2, "no JSON: "),
        (3, "no 'part'"),
    ]


def test_shares_keep_the_same_picture_in_one_split_whatever_its_name(
    write: Write, tmp_path: Path
) -> None:
    for number in range(12):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / f"{number}.png")
        Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / f"copy of {number}.png")
    path = write(
        *(line(f"{i}.png", str(i)) for i in range(12)),
        *(line(f"copy of {i}.png", str(i)) for i in range(12)),
    )
    shares = {"train": 0.5, "val": 0.5}
    found = [questions(JsonlQuestions(path, split=split, shares=shares)) for split in shares]
    assert sorted(found[0] + found[1], key=int) == sorted([str(i) for i in range(12)] * 2, key=int)
    assert not set(found[0]) & set(found[1])
    assert all(found)
