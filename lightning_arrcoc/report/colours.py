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


# Chosen by us, beginning with two of Okabe and Ito's: one after the other that which lies farthest
# from those before it, to people with normal sight and to those with protanopia, deuteranopia or
# tritanopia (Machado et al. 2009), among colours with a contrast of 3 to the surface (WCAG 2.2).
LIGHT = Colours(
    ink="#5c6169",
    grid="#e3e3df",
    surface="#ffffff",
    runs=(
        "#0072b2", "#d55e00", "#004d33", "#65188d", "#8f8f8f",
        "#0f92f7", "#33034b", "#715b6e", "#2e3ec7", "#002b0a",
    ),
)  # fmt: skip
DARK = Colours(
    ink="#a3a9b2",
    grid="#31363d",
    surface="#1b1e22",
    runs=(
        "#3d9fdb", "#ef7d2b", "#c4f5dc", "#6057e7", "#9ba287",
        "#a1c6c3", "#9a5d67", "#f4c947", "#7d5fad", "#d44f13",
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
