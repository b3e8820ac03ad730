"""What names of metrics say."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_arrcoc.report.quantities import direction_of, directions, quantity_of, role_of
from lightning_arrcoc.report.run import Run


@pytest.mark.parametrize(
    ("metric", "section", "title", "role"),
    [
        ("val/loss", "Curves", "loss", "val"),
        ("train_loss", "Curves", "loss", "train"),
        ("train/loss_epoch", "Curves", "loss", "train"),
        ("validation/exact_match", "Curves", "exact_match", "val"),
        ("loss", "Curves", "loss", ""),
        ("training_speed", "Curves", "speed", "train"),
        ("grad/norm_group/head", "Gradients", "grad/norm_group/head", ""),
        ("throughput/anything", "Throughput", "throughput/anything", ""),
        ("memory/rss_gib", "Memory", "memory/rss_gib", ""),
        ("overfit/signs", "Signs of overfitting", "overfit/signs", ""),
        ("lr-AdamW", "Other metrics", "lr-AdamW", ""),
        ("curriculum/stage", "Other metrics", "curriculum/stage", ""),
    ],
)
def test_a_name_tells_quantity_and_data(metric: str, section: str, title: str, role: str) -> None:
    assert quantity_of(metric) == (section, title)
    assert role_of(metric) == role


def test_the_configuration_says_which_values_are_better_before_the_name_does() -> None:
    run = Run("a", Path(), "log.jsonl")
    run.config = {"callbacks": [{"monitor": "val/loss", "mode": "max"}, {"monitor": "odd"}]}
    said = directions([run])
    assert direction_of("val/loss", said) == ("max", "the configuration")
    assert direction_of("odd", said) == ("min", "the configuration")  # Lightning's default
    assert direction_of("train/loss", said) == ("min", "its name")
    assert direction_of("val/exact_match", said) == ("max", "its name")
    assert direction_of("val/zeal", said) == ("", "nobody")
