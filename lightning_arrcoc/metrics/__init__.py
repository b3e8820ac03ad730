"""How right answers are: one torchmetrics class a file, and the names that a run calls them by."""

from __future__ import annotations

from lightning_arrcoc.metrics.anls import Anls
from lightning_arrcoc.metrics.answer_metric import AnswerMetric
from lightning_arrcoc.metrics.exact_match import ExactMatch
from lightning_arrcoc.metrics.vqa_accuracy import VqaAccuracy

METRICS: dict[str, type[AnswerMetric]] = {
    "exact_match": ExactMatch,
    "vqa_accuracy": VqaAccuracy,
    "anls": Anls,
}

__all__ = ["METRICS", "Anls", "AnswerMetric", "ExactMatch", "VqaAccuracy"]
