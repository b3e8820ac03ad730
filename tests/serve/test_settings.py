from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lightning_arrcoc.serve.settings import KEY_VARIABLE, ServerSettings, read_api_key


def test_a_server_listens_on_this_machine_alone_unless_it_is_told_otherwise() -> None:
    assert ServerSettings().host == "127.0.0.1"
    assert tuple(ServerSettings().remote_hosts) == ()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"host": "example.com"}, "host='example.com'"),
        ({"port": 80}, "port=80; expected 1024"),
        ({"name": " "}, "name is empty"),
        ({"max_queue": 0}, "max_queue=0"),
        ({"timeout_s": float("nan")}, "batch_wait_s|timeout_s"),
        ({"timeout_s": float("inf")}, "timeout_s=inf"),
        ({"batch_wait_s": -1.0}, "batch_wait_s=-1.0"),
        ({"max_tokens": -3}, "max_tokens=-3"),
    ],
)
def test_limits_that_cannot_be_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ServerSettings(**wrong)


def test_a_key_comes_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert read_api_key(ServerSettings()) is None
    monkeypatch.setenv(KEY_VARIABLE, "of-the-environment")
    assert read_api_key(ServerSettings()) == "of-the-environment"
    (tmp_path / "key").write_text("of-the-file\n")
    assert read_api_key(ServerSettings(api_key_file=str(tmp_path / "key"))) == "of-the-file"


def test_an_empty_key_is_no_key_that_everybody_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "")
    with pytest.raises(ValueError, match="is empty"):
        read_api_key(ServerSettings())
    with pytest.raises(FileNotFoundError):
        read_api_key(ServerSettings(api_key_file=str(tmp_path / "nowhere")))


def test_a_key_is_no_part_of_what_settings_say_of_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "very-secret")
    assert "very-secret" not in repr(ServerSettings())
