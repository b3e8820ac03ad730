"""The automatic logger takes what is there, says so, and never asks for a login."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_arrcoc.loggers import auto
from lightning_arrcoc.loggers.auto import choose_logger, has_wandb_key

KEY = "0123456789abcdef0123456789abcdef01234567"


class FakeWandb:
    """Stands in for the real one, which may be absent."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder in which wandb was never used."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setattr(auto, "WandbLogger", FakeWandb)
    return folder


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "propagate", True)
    caplog.set_level(logging.INFO)
    return caplog


def install(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Pretend that just these loggers' packages are installed."""
    monkeypatch.setattr(auto, "is_installed", names.__contains__)


def write_netrc(path: Path, host: str = "api.wandb.ai") -> None:
    path.write_text(f"machine {host}\n  login user\n  password {KEY}\n")
    path.chmod(0o600)


def test_wandb_is_chosen_where_the_environment_holds_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture
) -> None:
    install(monkeypatch, "wandb", "tensorboard")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    logger = choose_logger(str(tmp_path), project="mine")
    assert isinstance(logger, FakeWandb)
    assert logger.arguments == {"project": "mine", "save_dir": str(tmp_path)}
    assert "Weights & Biases" in said.text
    assert KEY not in said.text


def test_wandb_is_chosen_where_the_netrc_holds_a_key(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture
) -> None:
    install(monkeypatch, "wandb", "tensorboard")
    write_netrc(home / ".netrc")
    assert isinstance(choose_logger(str(tmp_path)), FakeWandb)
    assert KEY not in said.text


def test_without_a_key_it_is_tensorboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("tensorboard")
    install(monkeypatch, "wandb", "tensorboard")
    logger = choose_logger(str(tmp_path))
    assert isinstance(logger, TensorBoardLogger)
    assert Path(logger.log_dir).parent == tmp_path
    assert f"TensorBoard: tensorboard --logdir {tmp_path}" in said.text


def test_a_key_without_wandb_is_not_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert isinstance(choose_logger(str(tmp_path)), CSVLogger)


def test_with_neither_it_is_csv_at_the_place_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture
) -> None:
    install(monkeypatch)
    logger = choose_logger(str(tmp_path))
    assert isinstance(logger, CSVLogger)
    logger.log_metrics({"train/loss": 1.5}, step=1)
    logger.save()
    (named,) = [word for word in said.text.split() if word.endswith("metrics.csv")]
    assert "1.5" in Path(named).read_text()


def test_it_says_one_line_and_asks_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture
) -> None:
    install(monkeypatch, "wandb")
    monkeypatch.setattr("builtins.input", lambda *a: pytest.fail("it asked"))
    monkeypatch.setattr("getpass.getpass", lambda *a, **k: pytest.fail("it asked"))
    choose_logger(str(tmp_path))
    assert len(said.messages) == 1


def test_a_disabled_wandb_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert has_wandb_key()
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert not has_wandb_key()


def test_an_empty_key_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "")
    assert not has_wandb_key()


def test_a_home_without_netrc_holds_no_key() -> None:
    assert not has_wandb_key()


def test_a_netrc_elsewhere_is_read_where_the_environment_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_netrc(tmp_path / "mine")
    assert not has_wandb_key()
    monkeypatch.setenv("NETRC", str(tmp_path / "mine"))
    assert has_wandb_key()


def test_a_netrc_for_another_host_holds_no_key_for_wandb(home: Path) -> None:
    write_netrc(home / ".netrc", host="github.com")
    assert not has_wandb_key()


@pytest.mark.parametrize("url", ["https://wandb.example.org", "https://wandb.example.org/"])
def test_a_server_of_ones_own_has_its_own_key(
    url: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_netrc(home / ".netrc", host="wandb.example.org")
    assert not has_wandb_key()
    monkeypatch.setenv("WANDB_BASE_URL", url)
    assert has_wandb_key()


def test_a_broken_netrc_holds_no_key(home: Path) -> None:
    (home / ".netrc").write_text("machine api.wandb.ai nonsense here")
    assert not has_wandb_key()


def test_a_folder_of_its_name_is_no_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some_logger_of_nobody").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not auto.is_installed("some_logger_of_nobody")
    assert auto.is_installed("lightning")
