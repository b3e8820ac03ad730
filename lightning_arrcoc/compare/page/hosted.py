"""What a folder of `space.write_space` runs."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning_arrcoc.compare.comparator import CheckpointComparator
from lightning_arrcoc.compare.page.asking import Page
from lightning_arrcoc.compare.page.examples import from_folder
from lightning_arrcoc.compare.page.serving import HERE, LOCAL_NAMES, build_app, listen, serve
from lightning_arrcoc.compare.page.settings import SINGLE, PageSettings
from lightning_arrcoc.compare.page.space import (
    BACKBONE,
    CHECKPOINTS,
    EXAMPLES,
    NAME,
    SETTINGS,
)
from lightning_arrcoc.vlm.loading import hide_progress_bars

USUAL_PORT = 7860
# Set inside a Space, which reaches the page from outside and shows it in a frame of its own.
HOSTED, HOST, PORT = "SPACE_ID", "GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT"
FRAMED_BY = "'self' https://huggingface.co"


def main(folder: Path) -> None:
    """Serve the one checkpoint until interrupted.

    On a machine of one's own it listens there alone, at port 7860 or GRADIO_SERVER_PORT.

    Raises:
        ValueError: the port is taken.
    """
    told = json.loads((folder / SETTINGS).read_text())
    hosted = HOSTED in os.environ
    host = os.environ.get(HOST, "0.0.0.0") if hosted else HERE
    with listen(host, int(os.environ.get(PORT, USUAL_PORT))) as taken:
        app = build_app(
            _page(folder, told),
            from_folder(folder / EXAMPLES) if any((folder / EXAMPLES).glob("*.png")) else [],
            told["percent"],
            hosts=None if hosted else LOCAL_NAMES,
            ancestors=FRAMED_BY if hosted else "'none'",
        )
        print(f"page: http://{host}:{taken.getsockname()[1]}", flush=True)
        with suppress(KeyboardInterrupt):
            serve(app, taken)


def _page(folder: Path, told: dict[str, Any]) -> Page:
    hide_progress_bars()
    backbone = folder / BACKBONE if told["backbone"] == BACKBONE else told["backbone"]
    comparator = CheckpointComparator(
        str(backbone), max_loaded=1, max_waiting=told["max_waiting"], timeout_s=told["timeout_s"],
        max_new_tokens=told["max_new_tokens"],
        **{key: value for key, value in told["model"].items() if value is not None},
    )  # fmt: skip
    comparator.register_folder(folder / CHECKPOINTS)
    settings = PageSettings(
        mode=SINGLE, checkpoint=NAME, max_upload_mb=told["max_upload_mb"],
        max_waiting=told["max_waiting"],
    )  # fmt: skip
    return Page(comparator, settings)
