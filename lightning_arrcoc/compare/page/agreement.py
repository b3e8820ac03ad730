"""Where contestants agree: in what they say, and in what they look at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_arrcoc.compare.contestants import Contestant
from lightning_arrcoc.contest import DOWNSAMPLED, FULL
from lightning_arrcoc.metrics.exact_match import plain
from lightning_arrcoc.relevance import Allocation


class Shared(NamedTuple):
    """What two contestants look at.

    Attributes:
        one, other: their names.
        both: cells that both keep.
        either: cells that at least one of them keeps.
    """

    one: str
    other: str
    both: int
    either: int

    @property
    def percent(self) -> int:
        """Of the cells that either keeps."""
        return round(100 * self.both / max(1, self.either))


def by_answer(contestants: Sequence[Contestant]) -> dict[str, list[str]]:
    """Names by what they say, but for case and white space; the most frequent answer first."""
    groups: dict[str, list[str]] = defaultdict(list)
    for one in contestants:
        said = next((text for text in groups if plain(text) == plain(one.answer)), one.answer)
        groups[said].append(one.name)
    return dict(sorted(groups.items(), key=lambda group: -len(group[1])))


def hint(contestants: Sequence[Contestant]) -> str:
    """What the answers together tell, and what to try next; nothing of a single one."""
    if len(contestants) < 2:
        return ""
    groups = by_answer(contestants)
    full = next((one for one in contestants if one.name == FULL), None)
    if len(groups) == 1:
        if full is not None:
            return "All agree, also with all tokens: nothing that was dropped was needed."
        return "All agree. Lower the budget until one of them does not, and see what it lost."
    told = "; ".join(f"{_listed(names)}: “{text or 'nothing'}”" for text, names in groups.items())
    if full is None:
        return (
            f"The answers differ. {told}. Ask “{FULL}” as well: it tells whether the tokens or "
            "the backbone are to blame."
        )
    others = [one.name for one in contestants if plain(one.answer) != plain(full.answer)]
    return (
        f"The answers differ. {told}. With all tokens it is “{full.answer}”, so look at what "
        f"{_listed(others)} dropped, raise the budget and ask again."
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def choosers(
    contestants: Sequence[Contestant], shown: Mapping[str, Allocation]
) -> dict[str, Tensor]:
    """Cells ``(H, W)`` that each keeps, of those who choose among all cells.

    Those who see everything, or a smaller image, choose nothing.
    """
    return {
        one.name: shown[one.name].covered
        for one in contestants
        if one.name not in (FULL, DOWNSAMPLED)
    }


def shared_cells(kept: Mapping[str, Tensor]) -> list[Shared]:
    """Every two of them."""
    return [
        Shared(one, other, int((kept[one] & kept[other]).sum()),
               int((kept[one] | kept[other]).sum()))
        for one, other in combinations(kept, 2)
    ]  # fmt: skip


def kept_by(kept: Mapping[str, Tensor]) -> Tensor:
    """How many contestants keep each cell ``(H, W)``, int64."""
    return torch.stack(list(kept.values())).sum(0)
