"""Numbers, times and events as a reader likes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from lightning_arrcoc.report.run import Happening

LONGEST = 400  # characters of one text; chosen by us: a traceback is read in the log
ABSENT = "\N{EN DASH}"
UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def number(value: float) -> str:
    """Four digits that count."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "infinity" if value > 0 else "-infinity"
    if value == int(value) and abs(value) < 1e6:
        return _typeset(f"{int(value):,}")
    return _typeset(f"{value:.4g}")


def short(value: float) -> str:
    """For an axis: 12k, 3.5M."""
    for size, letter in UNITS:
        if size <= abs(value) < 1e15:
            return _typeset(f"{value / size:g}{letter}")
    return _typeset(f"{value:g}")


def since(time: timedelta) -> str:
    """A time that passed: 3 h 20 min."""
    seconds = max(0, round(time.total_seconds()))
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, seconds = divmod(rest, 60)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")]
    told = [f"{count} {unit}" for count, unit in parts if count]
    return " ".join(told[:2]) or "0 s"


def utc(time: datetime) -> str:
    """In UTC, to the second."""
    return f"{time.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def plain(value: Any) -> str:
    """A value of a configuration or an event on one line."""
    if isinstance(value, bool) or value is None:
        return str(value).lower() if value is not None else ABSENT
    if isinstance(value, float):
        return number(value) if abs(value) < 1e-3 or abs(value) >= 1e6 else f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {plain(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    return str(value)


def text_of(event: Happening) -> str:
    """What an event says: its message, or its reason and all of its other fields."""
    fields = dict(event.fields)
    first = fields.pop("message", None)
    others = {} if first else fields
    first = first or others.pop("reason", None)
    words = [str(first)] if first else []
    words += [f"{key.replace('_', ' ')} {plain(value).rstrip('.')}" for key, value in others.items()
              if value is not None]  # fmt: skip
    said = " ".join("; ".join(words).split())
    return said if len(said) <= LONGEST else said[: LONGEST - 1] + "…"


def _typeset(number: str) -> str:
    return number.replace("e+0", "e").replace("e-0", "e-").replace("-", "\N{MINUS SIGN}")
