"""Names lead to files below the folder, and nowhere else unless it is allowed."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path

import fsspec
import pytest

from lightning_arrcoc.data.picture_folder import PictureFolder, shown


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with one file, beside a secret."""
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a b.png").write_bytes(b"picture")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "images2").mkdir()
    (tmp_path / "images2" / "x").write_bytes(b"secret")
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError(f"a connection was tried: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def remote() -> str:
    """A folder of fsspec's in-memory file system, with one file."""
    folder = f"memory://bucket-{uuid.uuid4().hex}"
    with fsspec.open(f"{folder}/deep/a.png", "wb") as file:
        file.write(b"far picture")
    return folder


def test_names_start_from_the_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("deep/a b.png", "./deep/a b.png", "deep/../deep/a b.png"):
        assert PictureFolder(root).read(name) == b"picture"
    assert PictureFolder(root).read(str(root / "deep" / "a b.png")) == b"picture"
    monkeypatch.chdir(root.parent)
    folder = PictureFolder("images")
    monkeypatch.chdir("/")
    assert folder.read("deep/a b.png") == b"picture"


@pytest.mark.parametrize(
    "name", ["../secret", "deep/../../secret", "../images2/x", "{outside}", "/etc/hostname"]
)
def test_a_name_that_leads_out_is_refused_unless_that_is_allowed(root: Path, name: str) -> None:
    name = name.format(outside=root.parent / "secret")
    with pytest.raises(ValueError, match=r"leads out of the folder .* allow_outside=true"):
        PictureFolder(root).read(name)
    if "etc" not in name:
        assert PictureFolder(root, allow_outside=True).read(name) == b"secret"


def test_a_link_is_followed_inside_and_not_out(root: Path) -> None:
    (root / "in.png").symlink_to("deep/a b.png")
    (root / "out.png").symlink_to("../secret")
    (root / "parent").symlink_to("..")
    assert PictureFolder(root).read("in.png") == b"picture"
    for name in ("out.png", "parent/secret", "parent/images2/x"):
        with pytest.raises(ValueError, match="leads out"):
            PictureFolder(root).read(name)
    assert PictureFolder(root, allow_outside=True).read("parent/secret") == b"secret"


def test_the_folder_itself_may_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert PictureFolder(tmp_path / "link").read("deep/a b.png") == b"picture"


@pytest.mark.parametrize("name", ["", "a\0b", "deep/a b.png\0.txt", "a\nb", "\x1b[31m"])
def test_a_name_of_control_characters_is_refused(root: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is no name of a picture"):
        PictureFolder(root).read(name)


@pytest.mark.parametrize("name", ["absent.png", "deep", "deep/a b.png/more", ".", "x" * 300])
def test_what_is_no_file_is_not_found(root: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"No picture .*; expected a file"):
        PictureFolder(root).read(name)


def test_pipes_and_devices_are_refused_even_where_everything_is_allowed(root: Path) -> None:
    os.mkfifo(root / "pipe.png")
    folder = PictureFolder(root, allow_outside=True)
    for name in ("pipe.png", "/dev/zero", "/dev/stdin"):
        with pytest.raises(ValueError, match="is a pipe, a socket or a device"):
            folder.read(name)


def test_a_device_is_not_even_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening one may already do something."""

    def refuse(*args: object) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ValueError, match="is a pipe, a socket or a device"):
        PictureFolder(root, allow_outside=True).read("/dev/zero")


def test_a_link_in_a_circle_is_an_error_of_the_system(root: Path) -> None:
    (root / "circle").symlink_to("circle")
    with pytest.raises(OSError, match="symbolic links"):
        PictureFolder(root).read("circle")


# ------------------------------------------------------------------------------------------- URLs


@pytest.mark.parametrize("url", ["https://example.org/a.png", "memory://x", "s3://bucket/a"])
def test_no_url_is_opened_unless_asked_for(root: Path, url: str) -> None:
    with pytest.raises(ValueError, match=r"is a URL, .* asked for: protocols="):
        PictureFolder(root, allow_outside=True).read(url)


@pytest.mark.parametrize("url", ["file:///etc/hostname", "LOCAL://etc/hostname"])
def test_a_local_url_is_never_opened_and_nobody_is_told_to_allow_it(root: Path, url: str) -> None:
    with pytest.raises(ValueError, match=r"is a URL; name local pictures by their path"):
        PictureFolder(root, allow_outside=True).read(url)


def test_a_kind_of_url_that_is_asked_for_is_opened(root: Path, remote: str) -> None:
    folder = PictureFolder(root, protocols=["memory"])
    assert folder.read(f"{remote}/deep/a.png") == b"far picture"
    assert folder.read("deep/a b.png") == b"picture"
    with pytest.raises(FileNotFoundError, match=r"No picture 'memory://.*absent.png'"):
        folder.read(f"{remote}/absent.png")
    with pytest.raises(ValueError, match="none of this kind"):
        folder.read("https://example.org/a.png")


def test_a_folder_that_is_a_url_is_asked_for_by_that(remote: str) -> None:
    folder = PictureFolder(remote)
    assert folder.read("deep/a.png") == b"far picture"
    for name in ("../other/a.png", "deep/../../x", "/etc/hostname", "%2e%2e/x", "..\\x"):
        with pytest.raises(ValueError, match="leads out of"):
            folder.read(name)
    with pytest.raises(ValueError, match="none of this kind"):
        folder.read(f"{remote}/deep/a.png")  # a URL of the lines' own


@pytest.mark.parametrize("url", ["memory://a::file:///etc/hostname", "memory://a.zip::/etc/x"])
def test_a_url_inside_another_is_refused(root: Path, url: str) -> None:
    with pytest.raises(ValueError, match="is a chain of URLs"):
        PictureFolder(root, protocols=["memory"]).read(url)


@pytest.mark.parametrize("protocol", ["file", "local", "", "https://", "simplecache::https"])
def test_a_protocol_that_leads_around_the_rules_cannot_be_allowed(
    root: Path, protocol: str
) -> None:
    with pytest.raises(ValueError, match="is no kind of URL that can be allowed"):
        PictureFolder(root, protocols=[protocol])


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"images='.*absent' is no folder"):
        PictureFolder(tmp_path / "absent")
    with pytest.raises(ValueError, match="is no kind of URL"):
        PictureFolder(f"file://{tmp_path}")


def test_a_url_that_fails_for_another_reason_is_no_fault_of_the_sample(root: Path) -> None:
    with pytest.raises(OSError, match=r"'nonsense://a' cannot be read: ValueError: Protocol"):
        PictureFolder(root, protocols=["nonsense"]).read("nonsense://a?key=secret")


def test_a_secret_in_a_url_is_not_shown() -> None:
    url = "https://user:word@example.org/a/b.png?signature=secret#part"
    assert shown(url) == "https://example.org/a/b.png"
    assert shown("plain?name") == "plain?name"
