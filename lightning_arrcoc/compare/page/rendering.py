"""Views are templates; whatever comes from outside is escaped in them."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("lightning_arrcoc.compare.page", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render(view: str, **values: Any) -> str:
    """A view's HTML.

    Args:
        view: name of the template, without ``.html``.
        **values: what it shows.
    """
    return _environment().get_template(f"{view}.html").render(**values)


def asset(name: str) -> str:
    """Text of a file of the page: style or script."""
    return (resources.files("lightning_arrcoc.compare.page") / "assets" / name).read_text("utf-8")
