"""Exact match."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_arrcoc.metrics.answer_metric import AnswerMetric


class ExactMatch(AnswerMetric):
    """Share of answers that equal an accepted one but for case and white space."""

    def score(self, prediction: str, accepted: Sequence[str]) -> float:
        return is_match(prediction, accepted)


def is_match(prediction: str, accepted: Sequence[str]) -> float:
    """1.0 where an accepted answer says the same but for case and white space, else 0.0."""
    return float(plain(prediction) in map(plain, accepted))


def plain(text: str) -> str:
    """Case folded, each run of white space one blank, none at the ends."""
    return " ".join(text.split()).casefold()
