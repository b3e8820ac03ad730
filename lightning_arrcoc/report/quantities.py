"""What a metric's name says: which quantity it is, of which data, and where it belongs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from lightning_arrcoc.report.run import Run

ROLE = re.compile(r"^(train|training|val|valid|validation|test)[/_.]", re.IGNORECASE)
ROLES = {"training": "train", "valid": "val", "validation": "val"}
AREAS = {
    "grad": "Gradients",
    "gradient": "Gradients",
    "memory": "Memory",
    "throughput": "Throughput",
    "overfit": "Signs of overfitting",
}
MAIN, OTHER = "Curves", "Other metrics"
LOWER = re.compile(
    r"(loss|error|err|perplexity|ppl|nll|mse|rmse|mae|wer|cer|bpb|fid|divergence|kl)", re.IGNORECASE
)
HIGHER = re.compile(
    r"(acc|accuracy|exact_match|f1|auc|auroc|map|bleu|rouge\w*|anls|iou|dice|precision|recall|r2|psnr"
    r"|ssim|score)",
    re.IGNORECASE,
)


class Quantity(NamedTuple):
    """One thing that is measured, maybe on several data.

    Attributes:
        section: heading that it stands below.
        title: what it is called there.
    """

    section: str
    title: str


def quantity_of(metric: str) -> Quantity:
    """``val/loss``, ``train_loss`` and ``train/loss_epoch`` are all the loss."""
    area = AREAS.get(re.split(r"[/.]", metric, maxsplit=1)[0])
    if area is not None:
        return Quantity(area, metric)
    if role_of(metric):
        return Quantity(MAIN, ROLE.sub("", metric).removesuffix("_epoch"))
    if "/" not in metric and not re.match(r"(lr|learning.rate|epoch)", metric, re.IGNORECASE):
        return Quantity(MAIN, metric)
    return Quantity(OTHER, metric)


def role_of(metric: str) -> str:
    """``train``, ``val``, ``test``, or nothing."""
    match = ROLE.match(metric)
    role = match[1].lower() if match else ""
    return ROLES.get(role, role)


def importance(quantity: Quantity, metrics: Iterable[str]) -> tuple[Any, ...]:
    """Sorts quantities: losses and the whole norm, what validation measures, then by name."""
    roles = {role_of(metric) for metric in metrics}
    return (
        quantity.title.lower() not in ("loss", "grad/norm"),
        "loss" not in quantity.title.lower(),
        not roles & {"val", "test"},
        not roles,
        quantity.title,
    )


class Direction(NamedTuple):
    """Which values of a metric are better.

    Attributes:
        mode: ``min``, ``max``, or nothing where nobody knows.
        source: who says so.
    """

    mode: str
    source: str


def directions(runs: Iterable[Run]) -> dict[str, Direction]:
    """What configurations say: wherever a metric is monitored."""
    found = {}
    for run in runs:
        for part in _monitors(run.config):
            # Lightning's default and ours
            mode = part.get("mode") or "min"
            if mode in ("min", "max"):
                found[str(part["monitor"])] = Direction(mode, "the configuration")
    return found


def direction_of(metric: str, said: Mapping[str, Direction]) -> Direction:
    """What a configuration says, otherwise what the name suggests, otherwise nothing."""
    if metric in said:
        return said[metric]
    words = re.split(r"[/_.\-]", metric.lower())
    whole = quantity_of(metric).title.lower()
    for mode, pattern in (("min", LOWER), ("max", HIGHER)):
        if pattern.fullmatch(whole) or any(pattern.fullmatch(word) for word in words):
            return Direction(mode, "its name")
    return Direction("", "nobody")


def _monitors(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        if isinstance(value.get("monitor"), str):
            yield value
        for inner in value.values():
            yield from _monitors(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _monitors(inner)
