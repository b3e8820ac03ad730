"""What the page may be told, with what it is when nobody tells."""

from __future__ import annotations

from typing import NamedTuple

COMPARE, SINGLE = "compare", "single"
MODES = (COMPARE, SINGLE)
MOST_CONTESTANTS = 4
MOST_QUESTION = 2000  # letters; chosen by us: a page of text


class PageSettings(NamedTuple):
    """Limits and looks of a page.

    Attributes:
        mode: "compare", or "single" for one checkpoint and nothing kept of a visitor.
        checkpoint: who answers in single mode.
        max_upload_mb: MiB of a request, the picture in it included.
        max_pixels: larger pictures are made smaller in the browser, and refused here.
        max_waiting: events in the queue; who comes then is turned away.
        max_visits: visitors whose last comparison and history are kept.
    """

    mode: str = COMPARE
    checkpoint: str | None = None
    max_upload_mb: float = 12.0
    max_pixels: int = 2 * 1024 * 1024
    max_waiting: int = 32
    max_visits: int = 64

    @property
    def is_single(self) -> bool:
        return self.mode == SINGLE

    @property
    def title(self) -> str:
        """At the top, and of the browser's tab."""
        return "Ask about a picture" if self.is_single else "Compare checkpoints"
