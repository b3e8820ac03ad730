"""Examines a machine and says what to set: one topic a file."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import Any

TOPICS = {
    "run": "try all that a long run needs",
    "loader": "time a few settings of the loaders and name the best",
    "batch": "find the largest batches that fit, for training and for validation",
}


def named_topic(arguments: list[str]) -> list[str]:
    """The arguments of `doctor`, with the topic in front as an override.

    Without one it is the run that is examined: its words are those of `fit`, whose folder nothing
    makes.

    Raises:
        ValueError: it is unknown.
    """
    first = arguments[0] if arguments else ""
    named = [word.partition("=")[2] for word in arguments if word.startswith("topic=")]
    for topic in named:
        if topic not in TOPICS:
            raise ValueError(_unknown(topic))
    if first and "=" not in first and not first.startswith(("-", "~")):
        if first not in TOPICS:
            raise ValueError(_unknown(first))
        arguments = [f"topic={first}", *arguments[1:]]
    fits, ours = "hydra.run.dir=", "folder="
    return [ours + w[len(fits) :] if w.startswith(fits) else w for w in arguments]


def examine(config: Any) -> int:
    """Look into the topic that a configuration names, and give the exit code.

    Raises:
        ValueError: there is no such topic.
    """
    if config.topic not in TOPICS:
        raise ValueError(_unknown(config.topic))
    return int(import_module(f"lightning_arrcoc.doctor.{config.topic}").examine(config))


_EXAMPLE = "Try: python -m lightning_arrcoc doctor"


def _topics() -> str:
    return ", ".join(TOPICS)


def _unknown(topic: str) -> str:
    near = difflib.get_close_matches(topic, TOPICS, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else _EXAMPLE
    return f"Unknown topic {topic!r}; expected one of {_topics()}. {hint}"
