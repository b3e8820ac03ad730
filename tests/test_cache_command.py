"""The command `cache` measures what a run would, needs no weights, and goes on where it stopped."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from lightning_arrcoc import ArrCocQwen3VL, cache_command, cli
from lightning_arrcoc.cache_command import Share, share_of
from lightning_arrcoc.data import lmdb_files
from lightning_arrcoc.data.texture_cache import TextureCache, TextureWriter

pytest.importorskip("sklearn")
pytestmark = pytest.mark.filterwarnings("ignore")
SMALL = ("data.val.length=3", "data.test.length=4", "workers=0")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """The command in this interpreter: exit code, what it printed, its errors."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)

    def run(command: str, *words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lightning_arrcoc", command, *words])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capfd.readouterr()
        assert isinstance(left.value.code, int)
        return left.value.code, out, err

    return run


def cache(tmp_path: Path, folder: str = "outputs/textures") -> TextureCache:
    return TextureCache(tmp_path / folder)


# -------------------------------------------------------------------------------------- building


def test_it_measures_val_and_test_of_the_digits_and_says_what_came_of_it(
    run: Run, tmp_path: Path
) -> None:
    code, out, err = run("cache", *SMALL)
    assert (code, err) == (0, "")
    assert len(cache(tmp_path)) == 7
    each = cache(tmp_path).bytes_on_disk() / 7
    folder = tmp_path / "outputs" / "textures"
    assert f"7 entries, {each:,.0f} bytes an image: {folder}" in out
    assert re.search(r"7 of 7 images were measured now, [\d.]+ images a second", out)


def test_the_same_command_again_measures_nothing(run: Run, tmp_path: Path) -> None:
    run("cache", *SMALL)
    code, out, _ = run("cache", *SMALL)
    assert code == 0
    assert "0 of 7 images were measured now" in out
    code, out, _ = run("cache", *SMALL, "data.test.length=6")
    assert "2 of 9 images were measured now" in out


def test_fit_reads_what_it_built(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("data.texture_cache=made", "data.val.length=4", "data.test.length=8")
    assert run("cache", *words, "workers=0")[0] == 0
    assert len(cache(tmp_path, "made")) == 12
    monkeypatch.setattr(TextureWriter, "put", None)
    code, out, err = run(
        "fit", "experiment=debug", "trainer.max_steps=1", "trainer.val_check_interval=1", *words,
        "data.build_textures=false", "picture_samples=0", "logger=none",
    )  # fmt: skip
    assert code == 0, err
    assert "lacks an image" not in err
    assert "Exact match at equal visual tokens" in out


def test_splits_channels_and_sizes_are_those_of_the_configuration(run: Run, tmp_path: Path) -> None:
    assert run("cache", *SMALL, "data.cached_splits=[val]")[0] == 0
    assert len(cache(tmp_path)) == 3
    assert run("cache", *SMALL, "model.arr_coc.texture.channels=full")[0] == 0
    assert len(cache(tmp_path)) == 10
    assert run("cache", *SMALL, "model.max_pixels=65536")[0] == 0
    assert len(cache(tmp_path)) == 17


def test_it_needs_neither_weights_nor_a_trainer(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ArrCocQwen3VL, "from_pretrained", None)
    monkeypatch.setattr("lightning.pytorch.Trainer.__init__", None)
    assert run("cache", *SMALL)[0] == 0
    assert len(cache(tmp_path)) == 7


def test_rebuilding_begins_anew(run: Run, tmp_path: Path) -> None:
    run("cache", *SMALL)
    code, out, _ = run("cache", *SMALL, "data.cached_splits=[val]", "rebuild=true")
    assert code == 0
    assert "3 of 3 images were measured now" in out
    assert len(cache(tmp_path)) == 3


def test_ctrl_c_is_130_and_says_how_many_are_safe(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("cache", *SMALL)

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cache_command, "build_textures", stopped)
    code, out, err = run("cache", *SMALL)
    assert code == 130
    assert "Traceback" not in out + err
    assert f"Stopped: 7 entries are safe in {tmp_path / 'outputs' / 'textures'}; the same" in out


# -------------------------------------------------------------------------------------- launchers


@pytest.mark.parametrize(
    ("environment", "share"),
    [
        ({}, Share(0, 1, 1)),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}, Share(3, 8, 4)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Share(0, 1, 1)),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, Share(1, 2, 1)),
        (
            {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS_PER_NODE": "2"},
            Share(1, 4, 2),
        ),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, Share(0, 1, 1)),  # sbatch without srun
        (
            {"RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
            Share(1, 2, 1),
        ),
    ],
)
def test_a_process_knows_its_share(environment: dict[str, str], share: Share) -> None:
    assert share_of(environment) == share


@pytest.mark.parametrize(
    ("rank", "ranks"), [("2", "2"), ("-1", "2"), ("", "2"), ("0", ""), ("0", "0"), ("one", "2")]
)
def test_a_share_that_cannot_be_is_refused(rank: str, ranks: str) -> None:
    with pytest.raises(ValueError, match=rf"RANK={rank}, WORLD_SIZE={ranks}; expected ranks"):
        share_of({"RANK": rank, "WORLD_SIZE": ranks})


def test_bad_samples_are_left_out_counted_and_listed(run: Run, tmp_path: Path) -> None:
    Image.new("RGB", (64, 32)).save(tmp_path / "good.png")
    lines = [{"image": name, "question": "?", "answer": "7"} for name in ("good.png", "no.png")]
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = ("data=jsonl", "data.val=null", "data.test=null", "data.train.path=asked.jsonl")
    code, out, err = run("cache", *words, "data.train.on_bad_sample=skip")
    assert code == 0, err
    assert "1 of 1 images were measured now" in out
    (listed,) = (tmp_path / "outputs" / "cache").rglob("skipped.jsonl")
    assert f"1 bad samples were left out; they are listed in {listed}" in out
    assert json.loads(listed.read_text())["line"] == 2


@pytest.mark.parametrize("folder", ["file", "file/below"])
def test_a_folder_that_cannot_be_one_is_one_line(run: Run, tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()
    assert "Textures cannot be written to" in refused(run, *SMALL, f"data.texture_cache={folder}")


def test_each_rank_builds_its_own_shard(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, images in (("0", 3), ("1", 4)):
        monkeypatch.setenv("RANK", rank)
        code, out, _ = run("cache", *SMALL)
        assert code == 0
        assert f"{images} of {images} images were measured now (shard {rank} of 2)" in out
    assert [s.name for s in cache(tmp_path).shards()] == ["shard-00000.mdb", "shard-00001.mdb"]
    assert len(cache(tmp_path)) == 7


def test_all_cores_work_and_neighbours_share_them(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    monkeypatch.setattr(
        cache_command, "build_textures",
        lambda *_, workers, **__: given.append(workers) or cache_command.Built(1, 1, 1.0),
    )  # fmt: skip
    monkeypatch.setattr(cache_command, "available_cores", lambda: 6)
    run("cache")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    run("cache")
    run("cache", "workers=3")
    assert given == [6, 1, 3]


# ------------------------------------------------------------------------------------- bad input


def refused(run: Run, *words: str) -> str:
    code, _, err = run("cache", *words)
    assert code == 2, err
    assert "Traceback" not in err
    return err


def test_a_newer_cache_is_refused_with_the_command_that_rebuilds_it(
    run: Run, tmp_path: Path
) -> None:
    with TextureWriter(tmp_path / "newer") as writer:
        writer.put({lmdb_files.FORMAT_KEY: b"2"})
    words = (*SMALL, f"data.texture_cache={tmp_path / 'newer'}")
    line = refused(run, *words)
    command = f"cache data.texture_cache={tmp_path / 'newer'} rebuild=true"
    assert f"python -m lightning_arrcoc {command}" in line
    assert run(*command.split(), *SMALL)[0] == 0
    assert len(cache(tmp_path, "newer")) == 7


def test_a_cache_that_fit_cannot_read_is_one_line(run: Run, tmp_path: Path) -> None:
    code, _, err = run(
        "fit", "experiment=debug", "data.texture_cache=nothing", "data.build_textures=false"
    )
    assert code == 2
    assert "No texture cache in" in err
    assert "cache data.texture_cache=" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("data.cached_splits=[]",), "There is nothing to cache"),
        (("data.cached_splits=[valid]",), "choose from train, val, test"),
        (("workers=-1",), "workers=-1; expected 0 or more"),
        (("workers=some",), "expected int"),
        (("model.backbone=nowhere/at/all",), "No backbone"),
        (("data.val.split=???",), "data.val.split has no value. Give it one: data.val.split=..."),
        (("rebuild=perhaps",), "expected bool"),
    ],
)
def test_a_slip_is_one_line(run: Run, words: tuple[str, ...], said: str) -> None:
    assert said in refused(run, *SMALL, *words)


def test_several_processes_do_not_rebuild(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "several processes cannot do at once" in refused(run, *SMALL, "rebuild=true")


def test_ranks_that_cannot_be_are_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "RANK=2, WORLD_SIZE=2; expected ranks from 0" in refused(run, *SMALL)
