"""Figures as SVG that belongs to a page: its colours, its type, its classes."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from io import StringIO
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from lightning_arrcoc.report.colours import VARIABLES, variables

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
NUMBER = re.compile(r"-?\d+\.\d+")
FONT = re.compile(r"font(-\w+)?:[^;]*;?\s*")
DRAWN = ("d", "x", "y", "transform")
REFERENCE = re.compile(r"#([\w-]+)")


def inline(figure: Figure, name: str) -> Markup:
    """What a figure draws, without an ``<svg>`` around it.

    Names given to artists (`set_gid`) become classes, placeholders of colours the page's variables,
    and coordinates have one decimal: a tenth of a pixel.

    Args:
        figure: drawn in `colours.VARIABLES`, without text from elsewhere.
        name: what sets its references apart from those of other figures of the page.
    """
    text = StringIO()
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "path.simplify_threshold": 0.05,
    }
    with rc_context(style):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    root = ET.fromstring(text.getvalue())
    used = set(REFERENCE.findall(text.getvalue()))
    for element in root.iter():
        _adopt(element, used)
    return Markup("".join(_written(child) for child in root if not child.tag.endswith("metadata")))


def _adopt(element: ET.Element, used: set[str]) -> None:
    element.tag = element.tag.removeprefix(f"{{{SVG}}}")
    if f"{{{XLINK}}}href" in element.attrib:
        element.attrib["href"] = element.attrib.pop(f"{{{XLINK}}}href")
    own = element.get("id", "")
    if own.startswith("curve "):
        element.set("class", own)
    if own not in used:
        element.attrib.pop("id", None)
    for key in DRAWN:
        if key in element.attrib:
            element.set(key, " ".join(NUMBER.sub(_rounded, element.attrib[key]).split()))
    if "style" in element.attrib:
        style = FONT.sub("", element.attrib["style"])  # the page's own type
        for variable, placeholder in variables(VARIABLES).items():
            style = style.replace(placeholder, f"var(--{variable})")
        element.set("style", style)


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.1f}".removesuffix(".0")


def _written(element: ET.Element) -> str:
    return ET.tostring(element, encoding="unicode", short_empty_elements=True).strip()
