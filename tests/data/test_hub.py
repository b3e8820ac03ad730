"""Tables become samples without a network, and pictures in them are opened by our own decoder."""

from __future__ import annotations

import io
import json
import pickle
import socket
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lightning_arrcoc.data import hub as hub_module
from lightning_arrcoc.data.hub import HubQuestions, load_from_hub, table_files
from lightning_arrcoc.data.sample import Turn

datasets = pytest.importorskip("datasets")

RED, BLUE = (255, 0, 0), (0, 0, 255)


def encoded(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def quiet_and_alone(monkeypatch: pytest.MonkeyPatch) -> Any:
    """No network, no progress bars, and pictures never decoded by datasets."""

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a connection or a decoding of datasets' own was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(datasets.Image, "decode_example", refuse)
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """Two rows with every form of picture and answer."""
    image, text = datasets.Image(), datasets.Value("string")
    red, blue = ({"bytes": encoded(colour), "path": None} for colour in (RED, BLUE))
    rows = {
        "image": [red, blue],
        "pair": [[red, blue], [blue]],
        "deep": [{"photo": red, "ask": "Deep?"}, {"photo": blue, "ask": "Sea?"}],
        "raw": [encoded(RED), encoded(BLUE)],
        "file": ["red.png", "absent.png"],
        "question": ["What?", "Where?"],
        "answers": [["a", "b", "b"], ["c"]],
        "vqa": [[{"answer": "x", "answer_id": 1}] * 10, [{"answer": "y", "answer_id": 1}]],
        "part": ["train", "val"],
    }
    features = datasets.Features(
        {
            "image": image, "pair": datasets.List(image), "deep": {"photo": image, "ask": text},
            "raw": datasets.Value("binary"), "file": text, "question": text,
            "answers": datasets.List(text), "part": text,
            "vqa": datasets.List({"answer": text, "answer_id": datasets.Value("int64")}),
        }
    )  # fmt: skip
    path = tmp_path / "table.parquet"
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(path))
    (tmp_path / "red.png").write_bytes(encoded(RED))
    return path


def source(path: Path, **options: Any) -> HubQuestions:
    return HubQuestions(str(path), cache=str(path.parent / "cache"), **options)


def test_columns_of_the_usual_names_need_no_word(parquet: Path) -> None:
    table = source(parquet)
    assert len(table) == 2
    sample = table[0]
    assert sample.turns == (Turn("What?", "b", ("a", "b", "b")),)
    assert sample.images[0].getpixel((0, 0)) == RED
    assert sample.digests == (sha256(encoded(RED)).hexdigest(),)
    assert table[1].images[0].getpixel((0, 0)) == BLUE


@pytest.mark.parametrize(
    ("columns", "pixels", "turn"),
    [
        ({"images": "pair"}, [RED, BLUE], Turn("What?", "b", ("a", "b", "b"))),
        (
            {"image": "deep.photo", "question": "deep.ask", "answers": "vqa"},
            [RED],
            Turn("Deep?", "x", ("x",) * 10),
        ),
        ({"image": "raw"}, [RED], Turn("What?", "b", ("a", "b", "b"))),
        ({"image": "file", "answer": "part"}, [RED], Turn("What?", "train", ("a", "b", "b"))),
    ],
)
def test_other_columns_are_named(
    parquet: Path, columns: dict[str, str], pixels: list[Any], turn: Turn
) -> None:
    sample = source(parquet, columns=columns)[0]
    assert [image.getpixel((0, 0)) for image in sample.images] == pixels
    assert sample.turns == (turn,)
    assert len(sample.digests) == len(pixels)


def test_a_column_that_is_not_there_is_named_with_those_that_are(parquet: Path) -> None:
    with pytest.raises(ValueError, match=r"No column 'photo'; the table has image, pair, .*part"):
        source(parquet, columns={"image": "photo"})
    with pytest.raises(ValueError, match=r"No column 'split'"):
        source(parquet, split="train", split_column="split")


def test_a_table_without_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "words.csv").write_text("question,answer\n?,7\n")
    with pytest.raises(ValueError, match=r"No column 'image', 'images'; the table has question"):
        source(tmp_path / "words.csv")


@pytest.mark.parametrize("ending", ["csv", "jsonl", "json"])
def test_other_kinds_of_tables_name_their_pictures(tmp_path: Path, ending: str) -> None:
    (tmp_path / "red.png").write_bytes(encoded(RED))
    row = {"image": "red.png", "question": "?", "answer": 7}
    text = {"csv": "image,question,answer\nred.png,?,7\n", "json": json.dumps([row])}
    (tmp_path / f"table.{ending}").write_text(text.get(ending, json.dumps(row)))
    assert source(tmp_path / f"table.{ending}")[0].turns == (Turn("?", "7"),)


def test_a_folder_of_files_is_one_table_in_their_order(parquet: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for name in ("b.parquet", "a.parquet"):
        (tmp_path / "shards" / name).write_bytes(parquet.read_bytes())
    assert [file.name for file in table_files(str(tmp_path / "shards"))] == [
        "a.parquet",
        "b.parquet",
    ]
    table = HubQuestions(str(tmp_path / "shards"), cache=str(tmp_path / "cache"))
    assert [table[i].turns[0].question for i in range(4)] == ["What?", "Where?"] * 2


def test_a_bad_row_is_named_or_left_out(parquet: Path) -> None:
    columns = {"image": "file"}
    with pytest.raises(ValueError, match=r"table.parquet, line 2: No picture 'absent.png'"):
        source(parquet, columns=columns)[1]
    kept = source(parquet, columns=columns, on_bad_sample="skip")
    assert len(kept) == 1
    assert [(one.line, one.reason[:23]) for one in kept.skipped] == [(2, "No picture 'absent.png'")]


def test_a_path_in_a_row_leads_nowhere_else(parquet: Path, tmp_path: Path) -> None:
    (tmp_path / "paths.csv").write_text("image,question,answer\n/etc/hostname,?,7\n")
    with pytest.raises(ValueError, match=r"line 1: '/etc/hostname' leads out of the folder"):
        source(tmp_path / "paths.csv")[0]


def test_rows_are_split_by_column_and_by_picture(parquet: Path) -> None:
    assert source(parquet, split="val", split_column="part")[0].turns[0].question == "Where?"
    shares = {"train": 0.5, "val": 0.5}
    rows = []
    for split in shares:
        try:
            rows += source(parquet, split=split, shares=shares).rows.tolist()
        except ValueError:  # both pictures fall to the other
            continue
    assert sorted(rows) == [0, 1]


def test_a_source_is_small_when_it_is_sent_to_a_worker(parquet: Path) -> None:
    table = source(parquet)
    sent = pickle.dumps(table)
    assert len(sent) < 20_000
    assert pickle.loads(sent)[1].turns == table[1].turns


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({}, ValueError, "give one of them"),
        ({"path": "a.csv", "hub": "owner/name"}, ValueError, "give one of them"),
        (
            {"path": "absent.csv"},
            FileNotFoundError,
            "No table 'absent.csv'; expected .parquet",
        ),
        ({"path": "https://example.org/a.csv"}, ValueError, "is a URL; download it first"),
        ({"path": "{here}/text.txt"}, ValueError, "holds .txt; expected files of one kind"),
        ({"path": "{here}"}, FileNotFoundError, "No table"),
        ({"hub": "https://example.org"}, ValueError, "is no name of a data set on the hub"),
        ({"hub": "../up"}, ValueError, "is no name of a data set on the hub"),
        ({"hub": "{here}"}, ValueError, "is no name of a data set on the hub"),
    ],
)
def test_what_is_no_table_is_refused(
    tmp_path: Path, given: dict[str, str], error: type[Exception], message: str
) -> None:
    (tmp_path / "text.txt").write_text("words")
    with pytest.raises(error, match=message):
        HubQuestions(**{key: value.format(here=tmp_path) for key, value in given.items()})


def test_a_name_of_the_hub_is_asked_for_as_it_is_and_runs_no_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **o: asked.update(o, of=a))
    load_from_hub("owner/name", "part", "main", "train[:10]", None)
    assert asked == {
        "of": ("owner/name",), "name": "part", "revision": "main", "split": "train[:10]",
        "cache_dir": None,
    }  # fmt: skip
    assert int(datasets.__version__.split(".")[0]) >= 4  # before that, scripts could be trusted


def test_without_datasets_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ImportError, match=r'pip install "lightning-arrcoc\[datasets\]"'):
        hub_module.load_from_hub("owner/name", None, None, "train", None)
