"""What is changed, cut or planted is found out, and nothing of it runs."""

from __future__ import annotations

import os
import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_arrcoc.callbacks.checkpointing.last_verified import find_last_verified, set_aside
from lightning_arrcoc.plugins.atomic_checkpoint_io import AtomicCheckpointIO
from lightning_arrcoc.plugins.checkpoint_file import write_checkpoint
from lightning_arrcoc.plugins.manifest import DamagedCheckpointError
from lightning_arrcoc.plugins.verifying import verify


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def state(step: int) -> dict[str, Any]:
    return {"global_step": step, "state_dict": {"weight": torch.full((500,), float(step))}}


def load(path: Path) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "no manifest" would be a way out for what is damaged
        return AtomicCheckpointIO().load_checkpoint(path)


def resumed(folder: Path) -> Path | None:
    found = find_last_verified(str(folder), lambda path, why: set_aside(None, path, why))
    return None if found is None else Path(found)


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    write_checkpoint(state(7), tmp_path / "whole")
    found = (tmp_path / "whole").read_bytes()
    (tmp_path / "whole").unlink()
    return found


def test_a_flipped_bit_is_found_wherever_it_is(content: bytes, tmp_path: Path) -> None:
    dice = random.Random(0)
    end = range(len(content) - 700, len(content))  # last record and manifest
    places = [dice.randrange(len(content)) for _ in range(400)] + dice.sample(end, 100)
    write_checkpoint(state(6), tmp_path / "older.ckpt")
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << dice.randrange(8)
        (tmp_path / "a.ckpt").write_bytes(changed)
        assert_passed_over(tmp_path)


def assert_passed_over(folder: Path) -> None:
    """The newer one is no longer taken for a checkpoint, and the older one is resumed from."""
    with pytest.raises(DamagedCheckpointError, match="is damaged"):
        load(folder / "a.ckpt")
    with pytest.warns(UserWarning, match="was renamed to"):
        assert resumed(folder) == folder / "older.ckpt"
    (folder / "a.ckpt.corrupt").unlink()
    assert names(folder) == ["older.ckpt"]


def test_a_cut_file_is_found_wherever_it_ends(content: bytes, tmp_path: Path) -> None:
    dice = random.Random(0)
    lengths = [0, 1, 22, len(content) - 1, content.rindex(b"PK\x05\x06") + 22]
    lengths += [dice.randrange(len(content)) for _ in range(500 - len(lengths))]
    write_checkpoint(state(6), tmp_path / "older.ckpt")
    for length in lengths:
        (tmp_path / "a.ckpt").write_bytes(content[:length])
        assert_passed_over(tmp_path)


def test_something_behind_the_end_is_found(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_bytes(content + b"x")
    with pytest.raises(DamagedCheckpointError, match="another length"):
        load(tmp_path / "a.ckpt")


@pytest.mark.parametrize("spoil", ["flip", "cut"])
def test_resuming_falls_back_past_what_is_damaged_and_says_so(spoil: str, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write_checkpoint(state(step), tmp_path / f"{step}.ckpt")
    newest = bytearray((tmp_path / "3.ckpt").read_bytes())
    newest[900] ^= 1
    (tmp_path / "3.ckpt").write_bytes(newest if spoil == "flip" else newest[:900])
    with pytest.warns(UserWarning, match=r"3\.ckpt is damaged .* renamed to 3\.ckpt\.corrupt"):
        assert resumed(tmp_path) == tmp_path / "2.ckpt"
    assert names(tmp_path) == ["1.ckpt", "2.ckpt", "3.ckpt.corrupt"]


def test_the_latest_step_counts_whatever_the_clock_said(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write_checkpoint(state(step), tmp_path / f"{step}.ckpt")
        os.utime(tmp_path / f"{step}.ckpt", (10_000 - step, 10_000 - step))
    assert resumed(tmp_path) == tmp_path / "3.ckpt"


def test_a_manifest_of_another_file_vouches_for_nothing(tmp_path: Path) -> None:
    write_checkpoint(state(1), tmp_path / "a.ckpt")
    write_checkpoint(state(2), tmp_path / "b.ckpt")
    a, b = ((tmp_path / name).read_bytes() for name in ("a.ckpt", "b.ckpt"))
    cut_a, cut_b = (content.rindex(b"PK\x05\x06") + 22 for content in (a, b))
    (tmp_path / "c.ckpt").write_bytes(a[:cut_a] + b[cut_b:])
    with pytest.raises(DamagedCheckpointError, match="does not match its manifest"):
        verify(tmp_path / "c.ckpt")


# ------------------------------------------------------------------------------------ payloads


class Canary:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return (Path.touch, (self.place,))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.filterwarnings("ignore:.*has no manifest")
def test_a_planted_payload_never_runs(legacy: bool, tmp_path: Path) -> None:
    planted = {"state_dict": Canary(tmp_path / "canary")}
    torch.save(planted, tmp_path / "evil.ckpt", _use_new_zipfile_serialization=not legacy)
    for weights_only in (None, True):
        with pytest.raises(ValueError, match="can run code") as caught:
            AtomicCheckpointIO().load_checkpoint(tmp_path / "evil.ckpt", weights_only=weights_only)
        assert "weights_only" not in str(caught.value), "torch advises to switch it off"
    assert not (tmp_path / "canary").exists()


def test_an_unsafe_load_is_refused(tmp_path: Path) -> None:
    write_checkpoint(state(1), tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="would run whatever code"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "a.ckpt", weights_only=False)


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    write_checkpoint(state(1), tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"holds objects \(.*Path"):
        write_checkpoint({"hyper_parameters": {"folder": tmp_path}}, tmp_path / "a.ckpt")
    assert load(tmp_path / "a.ckpt")["global_step"] == 1
    assert names(tmp_path) == ["a.ckpt"]


# ---------------------------------------------------------------------------------------- names


def test_a_link_is_replaced_and_its_target_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "a.ckpt").symlink_to(tmp_path / "precious")
    write_checkpoint(state(1), tmp_path / "a.ckpt")
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert not (tmp_path / "a.ckpt").is_symlink()


def test_a_pipe_is_no_checkpoint_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.ckpt")
    with pytest.raises(DamagedCheckpointError, match="no regular file"):
        load(tmp_path / "a.ckpt")
    write_checkpoint(state(1), tmp_path / "b.ckpt")
    assert resumed(tmp_path) == tmp_path / "b.ckpt"


@pytest.mark.parametrize("name", ["a\0.ckpt", "missing.ckpt", "folder/missing.ckpt"])
def test_names_of_nothing_are_errors(name: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError)):
        load(tmp_path / name)


@pytest.mark.parametrize(
    "url",
    ["https://x.org/a.ckpt", "ftp://x/a.ckpt", "simplecache::s3://b/a.ckpt", "github://a:b@/c"],
)
def test_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is a URL; download it"):
        AtomicCheckpointIO().load_checkpoint(url)


def test_a_stock_checkpoint_loads_with_one_warning(tmp_path: Path) -> None:
    torch.save(state(1), tmp_path / "a.ckpt")
    io = AtomicCheckpointIO()
    with pytest.warns(UserWarning, match="has no manifest"):
        assert io.load_checkpoint(tmp_path / "a.ckpt")["global_step"] == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        io.load_checkpoint(tmp_path / "a.ckpt")


def test_stock_torch_reads_what_we_save(tmp_path: Path) -> None:
    write_checkpoint(state(5), tmp_path / "a.ckpt")
    for options in ({}, {"mmap": True}):
        assert torch.load(tmp_path / "a.ckpt", weights_only=True, **options)["global_step"] == 5


def test_stale_temporaries_of_ours_are_swept_and_no_others(tmp_path: Path) -> None:
    from lightning_arrcoc.atomic import TEMPORARY, replacing, sweep_temporaries

    (tmp_path / f".a.ckpt.abc{TEMPORARY}").write_bytes(b"half")
    (tmp_path / ".somebody.tmp").write_bytes(b"other")
    shutil.copy(tmp_path / ".somebody.tmp", tmp_path / "a.ckpt")
    with replacing(tmp_path / "b.ckpt"):  # its writer lives
        swept = sweep_temporaries(tmp_path)
        assert [path.name for path in swept] == [f".a.ckpt.abc{TEMPORARY}"]
    assert names(tmp_path) == [".somebody.tmp", "a.ckpt", "b.ckpt"]
