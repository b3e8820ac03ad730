"""What Prometheus is told."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from lightning_arrcoc.serve.replies import Usage

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)  # chosen by us


class ServerMetrics:
    """Counts what comes and goes.

    ==============================================  ===============================================
    name                                            what
    ==============================================  ===============================================
    arr_coc_requests_total{status}                  requests for a completion, by status of HTTP
    arr_coc_queue_length                            requests inside, waiting and running
    arr_coc_request_seconds                         histogram: from first byte to the whole answer
    arr_coc_first_token_seconds                     histogram: to its first piece, of streams
    arr_coc_text_tokens_total                       of prompts, read
    arr_coc_visual_tokens_total{kind}               "read" or "saved"
    arr_coc_answer_tokens_total                     written
    ==============================================  ===============================================

    Args:
        inside: tells how many requests there are.
    """

    def __init__(self, inside: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        of = {"registry": self._registry}
        self._requests = Counter("arr_coc_requests", "by status", ["status"], **of)
        self._seconds = Histogram("arr_coc_request_seconds", "whole", buckets=SECONDS, **of)
        self._first = Histogram("arr_coc_first_token_seconds", "streams", buckets=SECONDS, **of)
        self._text = Counter("arr_coc_text_tokens", "read", **of)
        self._visual = Counter("arr_coc_visual_tokens", "read or saved", ["kind"], **of)
        self._answer = Counter("arr_coc_answer_tokens", "written", **of)
        Gauge("arr_coc_queue_length", "waiting and running", **of).set_function(inside)

    def ended(self, status: int, seconds: float) -> None:
        """A request got an answer, or an error."""
        self._requests.labels(str(status)).inc()
        self._seconds.observe(seconds)

    def began(self, seconds: float) -> None:
        """A stream got its first piece."""
        self._first.observe(seconds)

    def used(self, usage: Usage) -> None:
        """What an answer was made of."""
        self._text.inc(usage.text)
        self._visual.labels("read").inc(usage.visual)
        self._visual.labels("saved").inc(usage.saved)
        self._answer.inc(usage.answer)

    def page(self) -> bytes:
        """In Prometheus' text format."""
        return bytes(generate_latest(self._registry))
