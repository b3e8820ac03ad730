"""Average normalised Levenshtein similarity."""

from __future__ import annotations

from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from lightning_arrcoc.metrics.answer_metric import AnswerMetric
from lightning_arrcoc.metrics.exact_match import plain

THRESHOLD = 0.5  # the paper's


class Anls(AnswerMetric):
    """How similar an answer's letters are to those of the most similar accepted one.

    The distance of Levenshtein is divided by the length of the longer text; one minus that is the
    similarity, and 0 where the distance is not below the threshold: then it is another answer, not
    one that was read badly. Case and repeated blanks do not count, as in the paper's evaluation.

    torchmetrics has a distance as well, but follows the diagonal with 25 letters to either side
    only, so that texts that are shifted by more come out too far apart.

    Source: A. F. Biten et al., "Scene Text Visual Question Answering", ICCV 2019,
    equation 1.
    """

    def score(self, prediction: str, accepted: Sequence[str]) -> float:
        return max(similarity(plain(prediction), plain(answer)) for answer in accepted)


def similarity(one: str, other: str) -> float:
    """1 for equal texts down to 0 for those that differ in half of their letters or more."""
    distance = float(Levenshtein.normalized_distance(one, other))
    return 1.0 - distance if distance < THRESHOLD else 0.0
