"""A file is replaced whole, or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_arrcoc.atomic import replacing_folder, write_atomically


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@settings(
    max_examples=20,
    deadline=None,  # fsync takes as long as the disk likes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(old=st.binary(max_size=64), new=st.binary(max_size=64))
def test_the_old_content_is_replaced_whole(tmp_path: Path, old: bytes, new: bytes) -> None:
    """A shorter text leaves nothing of a longer one behind."""
    target = tmp_path / "file.bin"
    for content in (old, new):
        write_atomically(target, lambda file, content=content: file.write(content))
        assert target.read_bytes() == content
    assert names(tmp_path) == ["file.bin"]


def test_missing_folders_are_made(tmp_path: Path) -> None:
    write_atomically(str(tmp_path / "a" / "b" / "file"), lambda file: file.write(b"x"))
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"x"


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existing", [True, False])
def test_when_the_writer_fails_the_old_file_stands_and_nothing_is_left(
    error: type[BaseException], existing: bool, tmp_path: Path
) -> None:
    target = tmp_path / "file"
    if existing:
        target.write_bytes(b"old")

    def fail(file: BinaryIO) -> None:
        file.write(b"half of the n")
        file.flush()
        raise error("broken off")

    with pytest.raises(error, match="broken off"):
        write_atomically(target, fail)
    assert names(tmp_path) == (["file"] if existing else [])
    assert not existing or target.read_bytes() == b"old"


def test_nobody_sees_a_half_written_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")

    def write(file: BinaryIO) -> None:
        file.write(b"new")
        file.flush()
        assert target.read_bytes() == b"old"

    write_atomically(target, write)
    assert target.read_bytes() == b"new"


def test_the_content_is_on_disk_before_the_name_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            assert os.fstat(descriptor).st_size == 3, "flushed before it is synced"
            done.append("fsync")
        else:
            done.append("fsync folder")
        fsync(descriptor)

    def watched_replace(self: Path, target: Path) -> Path:
        done.append("replace")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    write_atomically(tmp_path / "file", lambda file: file.write(b"new"))
    assert done == ["fsync", "replace", "fsync folder"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask_as_those_of_open_do(
    umask: int, mode: int, tmp_path: Path
) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "ours", lambda file: file.write(b"x"))
        (tmp_path / "plain").write_bytes(b"x")
        after = os.umask(umask)
    finally:
        os.umask(before)
    assert after == umask, "the umask itself is as it was"
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "plain").stat().st_mode) == mode


def test_a_folder_in_the_way_stays_and_no_temporary_file_does(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        write_atomically(tmp_path / "taken", lambda file: file.write(b"x"))
    assert names(tmp_path) == ["taken"]
    assert names(tmp_path / "taken") == []


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(OSError, match="file"):
        write_atomically(tmp_path / "file" / "below", lambda file: file.write(b"x"))
    assert (tmp_path / "file").read_bytes() == b"old"


# --------------------------------------------------------------------------------------- folders


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "folder"
    with replacing_folder(target) as new:
        (new / "sub").mkdir()
        (new / "sub" / "file").write_text("content")
        assert not target.exists()
    assert (target / "sub" / "file").read_text() == "content"
    assert [path.name for path in target.parent.iterdir()] == ["folder"]


def test_a_folder_that_was_not_finished_leaves_nothing(tmp_path: Path) -> None:
    def stop(new: Path) -> None:
        (new / "file").write_text("content")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"), replacing_folder(tmp_path / "it") as new:
        stop(new)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_stays_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    target = tmp_path / "it"
    for text in ("old", "new"):
        with replacing_folder(target, replace=text == "new") as new:
            (new / text).write_text(text)
    assert [path.name for path in target.iterdir()] == ["new"]
    with pytest.raises(FileExistsError, match="exists already"), replacing_folder(target):
        pass
    with pytest.raises(RuntimeError), replacing_folder(target, replace=True):
        raise RuntimeError
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


@pytest.mark.parametrize("stopped", [OSError("no more names"), KeyboardInterrupt("no more names")])
def test_a_folder_comes_back_when_the_new_one_cannot_take_its_name(
    stopped: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "it"
    with replacing_folder(target) as new:
        (new / "old").write_text("old")
    rename = Path.rename

    def refused(path: Path, to: Path) -> Path:
        if path.name == "new":
            raise stopped
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", refused)
    with (
        pytest.raises(type(stopped), match="no more names"),
        replacing_folder(target, replace=True),
    ):
        pass
    assert [path.name for path in target.iterdir()] == ["old"]


@pytest.mark.skipif(os.name == "nt", reason="files have no such modes there")
def test_files_in_a_folder_may_be_read_as_usual(tmp_path: Path) -> None:
    with replacing_folder(tmp_path / "it") as new:
        (new / "file").write_text("content")
        (new / "file").chmod(0o600)
    usual = tmp_path / "usual"
    usual.write_text("")
    assert (tmp_path / "it" / "file").stat().st_mode == usual.stat().st_mode
