"""What Lightning and transformers say that a user can do nothing about, kept quiet."""

from __future__ import annotations

import logging
import warnings

from lightning.pytorch.utilities.rank_zero import rank_zero_module

from lightning_arrcoc.vlm.loading import hide_progress_bars


def quiet_known_noise() -> None:
    """Hide messages that the user can do nothing about, and advertisements."""
    for message in (
        r"Found \d+ module\(s\) in eval mode",  # the frozen backbone, on purpose
        r".*isinstance\(treespec, LeafSpec\).*",  # inside Lightning, under torch >= 2.12
        r"The '\w+_dataloader' does not have many workers",
        r"Be aware that when using `ckpt_path`",  # measuring needs no callbacks of the run
        r"The dirpath has changed from",  # every run has a folder of its own
        r"It is recommended to use `self.log\('test/",  # these are over all processes already
    ):
        warnings.filterwarnings("ignore", message=message)
    rank_zero_module.log.addFilter(is_no_noise)
    hide_progress_bars()


def is_no_noise(record: logging.LogRecord) -> bool:
    """Whether a message of Lightning's tells the user something."""
    noise = ("litlogger", "litmodels", "TPU available", "cannot see tensors apart from")
    return not any(word in str(record.msg) for word in noise)
