"""The best logger that needs no question answered and no network asked for."""

from __future__ import annotations

import netrc
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_info

WANDB_HOST = "api.wandb.ai"


def choose_logger(save_dir: str, project: str = "lightning_arrcoc") -> Logger:
    """Weights & Biases where a key is configured, else TensorBoard if installed, else CSV.

    It says which, and why. Nothing asks for a login.

    Args:
        save_dir: folder of the run.
        project: name under which wandb files the run.
    """
    if is_installed("wandb") and has_wandb_key():
        rank_zero_info("Logging to Weights & Biases: a key is configured (logger=csv stays local).")
        return WandbLogger(project=project, save_dir=save_dir)
    if is_installed("tensorboard"):
        rank_zero_info(f"Logging to TensorBoard: tensorboard --logdir {save_dir}")
        return TensorBoardLogger(save_dir, name="", version="tensorboard")
    rank_zero_info(f"Logging to {Path(save_dir) / 'csv' / 'metrics.csv'}")
    return CSVLogger(save_dir, name="", version="csv")


def is_installed(package: str) -> bool:
    """Whether a package is installed; a folder of its name in the working directory is none."""
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def has_wandb_key() -> bool:
    """Whether wandb could log in without asking; the key itself is not kept."""
    if os.environ.get("WANDB_MODE") == "disabled":
        return False
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", WANDB_HOST).split("://")[-1].strip("/")
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
        return False
