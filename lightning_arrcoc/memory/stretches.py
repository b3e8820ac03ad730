"""Before, peak and after of what has a name, for a table at the end."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table

from lightning_arrcoc.memory.readings import MIB


@dataclass
class Stretch:
    """What a label has seen, in bytes, over all the times it was entered."""

    before: int
    peak: int = 0
    after: int = 0
    times: int = 0

    def end(self, peak: int, after: int) -> None:
        self.peak, self.after, self.times = max(self.peak, peak), after, self.times + 1


class Stretches(dict[str, Stretch]):
    """By label, in the order they began."""

    def end(self, label: str, before: int, peak: int, after: int) -> None:
        """Count one in: the first `before`, the highest `peak` and the last `after` stay."""
        self.setdefault(label, Stretch(before)).end(peak, after)

    def table(self, title: str) -> Table:
        table = Table(title=title, title_justify="left")
        for name in ("", "before (MiB)", "peak (MiB)", "after (MiB)", "times"):
            table.add_column(name, justify="right" if name else "left")
        for label, stretch in self.items():
            figures = (stretch.before, stretch.peak, stretch.after)
            table.add_row(
                label, *(f"{figure / MIB:,.1f}" for figure in figures), str(stretch.times)
            )
        return table
