"""Colours that everybody tells apart."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from lightning_arrcoc.report.colours import DARK, LIGHT, Colours
from lightning_arrcoc.report.run import Numbers

# Source: Machado, Oliveira and Fernandes 2009, severity 1.
SIGHT = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
         [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
         [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
         [0.004733, 0.691367, 0.303900]]
    ),
}  # fmt: skip
# Source: Ottosson 2020, Oklab.
CONES = np.array(
    [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
     [0.0883024619, 0.2817188376, 0.6299787005]]
)  # fmt: skip
LAB = np.array(
    [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
     [0.0259040371, 0.7827717662, -0.8086757660]]
)  # fmt: skip


def light_of(colour: str) -> Numbers:
    """Linear red, green and blue."""
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def seen(colour: str, sight: str) -> Numbers:
    found: Numbers = LAB @ np.cbrt(CONES @ np.clip(SIGHT[sight] @ light_of(colour), 0, 1))
    return found


def contrast(one: str, other: str) -> float:
    """Source: WCAG 2.2."""
    bright, dark = sorted(
        (float(np.array([0.2126, 0.7152, 0.0722]) @ light_of(c)) + 0.05 for c in (one, other)),
        reverse=True,
    )
    return bright / dark


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_every_two_runs_are_told_apart(colours: Colours, sight: str) -> None:
    for one, other in combinations(colours.runs, 2):
        assert np.linalg.norm(seen(one, sight) - seen(other, sight)) > 0.09, (one, other)


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_curves_stand_out_from_the_surface_and_text_more_so(colours: Colours) -> None:
    assert min(contrast(run, colours.surface) for run in colours.runs) >= 3
    assert contrast(colours.ink, colours.surface) >= 4.5
