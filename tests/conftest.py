"""Fixtures that many tests share: an untrained tiny Qwen3-VL in the real folder layout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a GPU where there is none, and slow tests unless asked for."""
    wants_slow = "slow" in str(config.getoption("-m"))
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if "slow" in item.keywords and not wants_slow:
            item.add_marker(pytest.mark.skip(reason="slow; run with -m slow"))


@pytest.fixture(scope="session")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3-VL as the hub stores it, with random weights in several safetensors shards."""
    from lightning_arrcoc.vlm.tiny.make import make_backbone

    folder = tmp_path_factory.mktemp("qwen3_vl")
    make_backbone(folder, max_shard_size="1MB")
    return folder
