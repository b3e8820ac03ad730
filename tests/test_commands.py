"""What the commands say and what they keep to themselves."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from lightning_arrcoc import ArrCocModule, ArrCocQwen3VL
from lightning_arrcoc.commands import trained_words
from lightning_arrcoc.noise import quiet_known_noise


def test_what_is_trained_is_said_in_numbers(backbone_folder: Path) -> None:
    module = ArrCocModule(ArrCocQwen3VL.from_pretrained(str(backbone_folder)))
    trained = sum(p.numel() for p in module.model.arr_coc.parameters())
    frozen = sum(p.numel() for p in module.model.backbone.parameters())
    assert trained_words(module) == (
        f"Training arr_coc: {trained:,} of {trained + frozen:,} parameters; the rest is frozen"
    )


def test_advertisements_are_hidden_and_news_is_not(caplog: pytest.LogCaptureFixture) -> None:
    quiet_known_noise()
    with caplog.at_level(logging.INFO):
        rank_zero_info("Tip: try installing [litlogger](https://...)")
        rank_zero_info("Tip: try installing [litmodels](https://...)")
        rank_zero_info("GPU available: False, used: False")
    assert caplog.messages == ["GPU available: False, used: False"]
