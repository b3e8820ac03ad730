"""Sources of growing difficulty, one at a time."""

from __future__ import annotations

from collections.abc import Sequence

from torch.utils.data import Dataset

from lightning_arrcoc.data.sample import Sample, Source


class StagedDataset(Dataset[Sample]):
    """Yields from one stage until it is told to advance.

    Args:
        stages: sources in the order they are to be learned.

    Attributes:
        stage: index of the stage that is drawn from now.

    Raises:
        ValueError: there is no stage.
    """

    def __init__(self, stages: Sequence[Source]) -> None:
        if not stages:
            raise ValueError("stages is empty; give at least one source.")
        self.stages = list(stages)
        self.stage = 0

    def __len__(self) -> int:
        return len(self.stages[self.stage])

    def __getitem__(self, index: int) -> Sample:
        return self.stages[self.stage][index]


def stages_of(source: Source) -> list[Source]:
    """The stages of a source that has some, or itself."""
    return source.stages if isinstance(source, StagedDataset) else [source]
