"""One stage is drawn from at a time."""

import pytest

from lightning_arrcoc.data.sample import Sample
from lightning_arrcoc.data.staged import StagedDataset


def stage(name, length):
    return [Sample((), (), family=f"{name} {i}") for i in range(length)]


def test_samples_come_from_the_stage_that_is_on():
    staged = StagedDataset([stage("easy", 2), stage("hard", 5)])
    assert staged.stage == 0
    assert len(staged) == 2
    assert staged[1].family == "easy 1"
    staged.stage = 1
    assert len(staged) == 5
    assert staged[1].family == "hard 1"
    assert staged[4].family == "hard 4"


def test_a_sample_beyond_the_stage_is_not_taken_from_the_next_one():
    staged = StagedDataset([stage("easy", 2), stage("hard", 5)])
    with pytest.raises(IndexError):
        staged[2]


def test_no_stage_at_all_is_refused():
    with pytest.raises(ValueError, match="stages is empty; give at least one source"):
        StagedDataset([])


def test_stages_added_to_the_list_afterwards_are_not_its_own():
    stages = [stage("easy", 2)]
    staged = StagedDataset(stages)
    stages.clear()
    assert len(staged) == 2
