"""Colours of runs and of the page, for light and for dark."""

from __future__ import annotations

from typing import NamedTuple


class Colours(NamedTuple):
    """What a drawing needs.

    Attributes:
        ink: text of axes.
        grid: lines behind the curves.
        surface: what it stands on.
        runs: a colour a run; the first comes again after the last.
    """

    ink: str
    grid: str
    surface: str
    runs: tuple[str, ...]

    def of(self, run: int) -> str:
        """The colour of the run with this number."""
        return self.runs[run % len(self.runs)]


# Source: the first five are Okabe and Ito's (2008), told apart with the common kinds of colour
# blindness, the lighter ones of them darkened, or lightened for the dark page, to a contrast of 3
# with the surface (WCAG 2.2, 1.4.11). Those beyond are chosen by us: names tell more runs apart.
LIGHT = Colours(
    ink="#5c6169",
    grid="#e3e3df",
    surface="#ffffff",
    runs=(
        "#0072b2", "#d55e00", "#00916b", "#b65f94", "#a87900",
        "#2f93cf", "#6b3fa0", "#8a5a44", "#6f7680", "#3f4650",
    ),
)  # fmt: skip
DARK = Colours(
    ink="#a3a9b2",
    grid="#31363d",
    surface="#1b1e22",
    runs=(
        "#3d9fdb", "#ef7d2b", "#1fb38a", "#d98bb9", "#e0ab2e",
        "#8accf5", "#a585dd", "#c08d74", "#8f98a3", "#d5d9de",
    ),
)  # fmt: skip

# Drawn in place of the page's variables, which a figure cannot name; see `svg.inline`.
VARIABLES = Colours(
    ink="#fe0001",
    grid="#fe0002",
    surface="#fe0003",
    runs=tuple(f"#fe01{number:02d}" for number in range(len(LIGHT.runs))),
)


def variables(colours: Colours) -> dict[str, str]:
    """The page's names of them."""
    runs = {f"run{number}": colour for number, colour in enumerate(colours.runs)}
    return {"ink": colours.ink, "grid": colours.grid, "surface": colours.surface, **runs}
