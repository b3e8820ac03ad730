"""Bad samples are left out once, told in one file, and the others keep their order everywhere."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from torch.utils.data import DataLoader, DistributedSampler

from lightning_arrcoc.data.datamodule import VqaDataModule
from lightning_arrcoc.data.jsonl import JsonlQuestions
from lightning_arrcoc.data.questions import Skipped
from lightning_arrcoc.data.sample import Sample
from lightning_arrcoc.data.skipping import leave_out_bad, unchecked, write_skipped
from lightning_arrcoc.data.staged import StagedDataset

BAD = {  # line: what is said about it
    2: "No picture 'absent.png'",
    4: "no answer",
    5: "'half.png' cannot be read",
    7: "is animated",
    8: "leads out of the folder",
    9: "no JSON",
    11: "cannot be read as PNG",
    13: "200 times the other",
    14: "is a URL",
    15: "No picture 'folder'",
}
LINES = 16


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Sixteen lines, every one of which asks its own number; ten of them are bad."""
    good = Image.new("RGB", (40, 20), (255, 0, 0))
    good.save(tmp_path / "good.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    good.save(tmp_path / "film.png", save_all=True, append_images=[Image.new("RGB", (40, 20))])
    good.save(tmp_path / "film.gif")
    Image.new("RGB", (300, 1)).save(tmp_path / "line.png")
    (tmp_path / "folder").mkdir()
    names = {
        2: "absent.png", 5: "half.png", 7: "film.png", 8: "../good.png", 11: "film.gif",
        13: "line.png", 14: "https://example.org/a.png", 15: "folder",
    }  # fmt: skip
    lines = [
        json.dumps({"image": names.get(n, "good.png"), "question": str(n), "answer": "7"})
        for n in range(1, LINES + 1)
    ]
    lines[3] = lines[3].replace('"answer"', '"reply"')
    lines[8] = lines[8][:-5]
    asked = tmp_path / "asked.jsonl"
    asked.write_text("\n".join(lines))
    return asked


GOOD = [str(number) for number in range(1, LINES + 1) if number not in BAD]


def asked(source: JsonlQuestions) -> list[str]:
    return [source[i].turns[0].question for i in range(len(source))]


def assert_all_are_listed(skipped: tuple[Skipped, ...], path: Path) -> None:
    assert [one.line for one in skipped] == list(BAD)
    assert {one.file for one in skipped} == {str(path)}
    for one in skipped:
        assert BAD[one.line] in one.reason


def test_without_a_word_a_bad_sample_stops_the_run(path: Path) -> None:
    with pytest.raises(ValueError, match=r"asked.jsonl, line 4: no answer"):
        JsonlQuestions(path)


def test_a_source_alone_leaves_out_what_is_bad(path: Path) -> None:
    source = JsonlQuestions(path, on_bad_sample="skip")
    assert asked(source) == GOOD
    assert_all_are_listed(source.skipped, path)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_share_the_search(path: Path, workers: int) -> None:
    source = JsonlQuestions(path, on_bad_sample="skip")
    leave_out_bad(source, workers)
    assert source.is_checked
    assert_all_are_listed(source.skipped, path)
    loader = DataLoader(source, batch_size=None, num_workers=workers, collate_fn=lambda s: s.turns)
    for _ in range(2):  # in every epoch the same
        assert [turns[0].question for turns in loader] == GOOD


def test_nothing_is_opened_twice(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = JsonlQuestions(path, on_bad_sample="skip")
    judged = []
    monkeypatch.setattr(source, "judge", lambda row: judged.append(row))
    leave_out_bad(source)
    leave_out_bad(source)
    len(source)
    assert judged == list(range(LINES))


@pytest.mark.parametrize("staged", [False, True])
def test_a_source_is_walked_through_without_a_search_ahead(path: Path, staged: bool) -> None:
    source = JsonlQuestions(path, on_bad_sample="skip")
    (rows,) = unchecked([StagedDataset([source]) if staged else source])
    found = [rows[index] for index in range(len(rows))]
    assert_all_are_listed(tuple(one for one in found if isinstance(one, Skipped)), path)
    assert [one.turns[0].question for one in found if isinstance(one, Sample)] == GOOD
    assert not source.is_checked, "who trains on it searches with all processes together"


def test_a_source_of_bad_samples_alone_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "asked.jsonl").write_text('{"image": "x"}\n{"image": "y"}')
    with pytest.raises(ValueError, match=r"All 2 samples are bad; .*line 1: no question"):
        len(JsonlQuestions(tmp_path / "asked.jsonl", on_bad_sample="skip"))


def test_what_is_no_fault_of_a_sample_stops_the_search(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk or network that fails would otherwise cost samples in silence."""
    source = JsonlQuestions(path, on_bad_sample="skip")

    def fail(name: str) -> bytes:
        raise OSError("the disk is on fire")

    monkeypatch.setattr(source.folder, "read", fail)
    with pytest.raises(OSError, match=r"asked.jsonl, line 1: the disk is on fire"):
        leave_out_bad(source)
    with pytest.raises(OSError, match=r"asked.jsonl, line 1: the disk is on fire"):
        len(source)
    source.leave_out({})
    with pytest.raises(OSError, match=r"asked.jsonl, line 3: the disk is on fire"):
        source[2]


def test_an_unknown_policy_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="on_bad_sample='ignore'; choose 'error' or 'skip'"):
        JsonlQuestions(path, on_bad_sample="ignore")  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------- the list


def test_the_list_names_each_once_in_order(tmp_path: Path) -> None:
    found = [
        Skipped("b", 1, "ü"),
        Skipped("a", 10, "x"),
        Skipped("a", 9, "y"),
        Skipped("b", 1, "ü"),
    ]
    write_skipped(tmp_path / "run" / "skipped.jsonl", found)
    lines = (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"file": "a", "line": 9, "reason": "y"},
        {"file": "a", "line": 10, "reason": "x"},
        {"file": "b", "line": 1, "reason": "ü"},
    ]


def module_of(folder: Path, **sources: Any) -> VqaDataModule:
    module = VqaDataModule(**sources, num_workers=0)
    module.trainer = SimpleNamespace(default_root_dir=str(folder))  # type: ignore[assignment]
    return module


def test_a_run_says_once_how_many_and_where(path: Path, tmp_path: Path) -> None:
    def skip() -> JsonlQuestions:
        return JsonlQuestions(path, on_bad_sample="skip")

    staged = StagedDataset([skip()])
    module = module_of(tmp_path / "run", train=staged, val=skip(), test=[])
    with pytest.warns(UserWarning, match=r"10 bad samples are left out; .*skipped.jsonl") as said:
        module.setup("fit")
    assert len(said) == 1
    listed = (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line)["line"] for line in listed] == list(BAD)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module.setup("fit")
        module.setup("test")
    assert asked(module.val) == asked(staged.stages[0]) == GOOD  # type: ignore[arg-type]


def test_a_run_without_bad_samples_writes_no_list(path: Path, tmp_path: Path) -> None:
    path.write_text(path.read_text().splitlines()[0])
    module = module_of(tmp_path / "run", train=JsonlQuestions(path, on_bad_sample="skip"))
    module.setup("fit")
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------- several processes


def test_two_processes_agree_on_length_and_order(
    path: Path, together: Callable[[str], list[str]]
) -> None:
    printed = together(f"""
        import json
        from torch.utils.data import DistributedSampler
        from lightning_arrcoc.data.jsonl import JsonlQuestions
        from lightning_arrcoc.data.skipping import leave_out_bad
        source = JsonlQuestions({str(path)!r}, on_bad_sample="skip")
        judge, judged = source.judge, []
        source.judge = lambda row: judged.append(row) or judge(row)
        leave_out_bad(source)
        sampler = DistributedSampler(source, shuffle=True, seed=3)
        sampler.set_epoch(2)
        mine = [source[i].turns[0].question for i in sampler]
        print(json.dumps([judged, source.rows.tolist(), [s.line for s in source.skipped], mine]))
    """)
    (judged, rows, skipped, mine), (others_judged, others_rows, others_skipped, theirs) = (
        json.loads(line) for line in printed
    )
    assert (judged, others_judged) == (list(range(0, LINES, 2)), list(range(1, LINES, 2)))
    assert rows == others_rows == [int(number) - 1 for number in GOOD]
    assert skipped == others_skipped == list(BAD)
    assert sorted(mine + theirs, key=int) == GOOD
    alone = DistributedSampler(GOOD, num_replicas=2, rank=0, shuffle=True, seed=3)  # type: ignore[arg-type]
    alone.set_epoch(2)
    assert mine == [GOOD[i] for i in alone]


def test_processes_that_see_different_files_all_stop(
    path: Path, together: Callable[[str], list[str]]
) -> None:
    printed = together(f"""
        import os
        from lightning_arrcoc.data.jsonl import JsonlQuestions
        from lightning_arrcoc.data.skipping import leave_out_bad
        text = open({str(path)!r}).read().splitlines()
        name = {str(path)!r} + str(rank)
        open(name, "w").write("\\n".join(text[: 6 - rank]))
        try:
            leave_out_bad(JsonlQuestions(name, on_bad_sample="skip"))
        except ValueError as error:
            print(error)
    """)
    assert all("Processes see different samples" in said for said in printed)


def test_a_process_that_cannot_read_stops_the_others_too(
    path: Path, together: Callable[[str], list[str]]
) -> None:
    printed = together(f"""
        from lightning_arrcoc.data.jsonl import JsonlQuestions
        from lightning_arrcoc.data.skipping import leave_out_bad
        source = JsonlQuestions({str(path)!r}, on_bad_sample="skip")
        def fail(name):
            raise PermissionError("not yours")
        if rank == 1:
            source.folder.read = fail
        try:
            leave_out_bad(source)
        except OSError as error:
            print(error)
    """)
    assert all("asked.jsonl, line 2: not yours" in said for said in printed)
