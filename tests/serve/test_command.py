"""What the command says where it cannot serve, before anything is loaded."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from lightning_arrcoc import cli
from lightning_arrcoc.plugins.checkpoint_file import write_checkpoint
from lightning_arrcoc.serve import command
from lightning_arrcoc.serve.settings import KEY_VARIABLE, ServerSettings

pytestmark = pytest.mark.filterwarnings("ignore")  # the user's program has them as lines


@pytest.fixture
def said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """The one line of a command that ends with 2."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "find_spec", lambda name: name)
    content = {"state_dict": {"arr_coc.x": torch.zeros(1)}, "pytorch-lightning_version": "2.6.6"}
    write_checkpoint(content, tmp_path / "one.ckpt")

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["lightning_arrcoc", "serve", *words])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert left.value.code == 2
        lines = [x for x in capfd.readouterr().err.splitlines() if x.startswith("error:")]
        assert len(lines) == 1
        return lines[0]

    return run


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def test_a_missing_extra_is_named_with_the_line_that_installs_it(
    said: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert 'pip install "lightning-arrcoc[serve]"' in said("ckpt=one.ckpt")


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ((), "No checkpoint was named"),
        (("ckpt=nowhere.ckpt",), "No checkpoint at 'nowhere.ckpt'"),
        (("ckpt=https://example.com/x.ckpt",), "is a URL"),
        (("ckpt=one.ckpt", "server.prot=9000"), "Did you mean 'port'?"),
        (("ckpt=one.ckpt", "server.port=80"), "expected 1024 to 65535"),
        (("ckpt=one.ckpt", "server.port=many"), "expected int"),
        (("ckpt=one.ckpt", "server.host=example.com"), "expected"),
        (("ckpt=one.ckpt", "server.max_queue=0"), "above 0"),
        (("ckpt=one.ckpt", "server.max_body_mib=-1"), "above 0"),
        (("ckpt=one.ckpt", "server.api_key_file=nowhere"), "nowhere"),
        (("ckpt=one.ckpt", "model.arr_coc.query_blind=true"), "read off"),
    ],
)
def test_wrong_words_are_one_line(
    words: tuple[str, ...], what: str, said: Callable[..., str]
) -> None:
    assert what in said(*words)


def test_a_port_that_is_taken_is_found_before_the_model_is_loaded(
    said: Callable[..., str], taken: int
) -> None:
    assert f"Port {taken} of 127.0.0.1 cannot be taken" in said(
        "ckpt=one.ckpt", f"server.port={taken}"
    )


def test_no_process_is_asked_for_a_key_that_is_empty(
    said: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "  ")
    assert f"{KEY_VARIABLE} is empty" in said("ckpt=one.ckpt")


def test_a_port_that_is_free_is_left_free() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command.check_port(ServerSettings(port=port))
    command.check_port(ServerSettings(port=port))
