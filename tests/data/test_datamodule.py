"""Training is shuffled, measuring keeps its order, and what is missing is named."""

import os
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from PIL import Image

from lightning_arrcoc.data.datamodule import MOST_WORKERS, VqaDataModule
from lightning_arrcoc.data.digits import DigitQuestions
from lightning_arrcoc.data.sample import Sample, Turn
from lightning_arrcoc.data.staged import StagedDataset

PICTURE = Image.new("RGB", (32, 32))
LOADERS = {
    "train": VqaDataModule.train_dataloader,
    "val": VqaDataModule.val_dataloader,
    "test": VqaDataModule.test_dataloader,
    "predict": VqaDataModule.predict_dataloader,
}


def encode(conversations):
    """A tiny processor: how many answers each conversation holds."""
    return {"answers": torch.tensor([len(one["answers"]) for one in conversations])}


def source(length, name="sample"):
    return [Sample((PICTURE,), (Turn("?", f"{name} {i}"),)) for i in range(length)]


def feeding(**given):
    return VqaDataModule(**{"num_workers": 0, "processor": encode, **given})


def attached(module, **given):
    """What the data module asks of a Trainer."""
    usual = {
        "accelerator": None,
        "num_devices": 1,
        "reload_dataloaders_every_n_epochs": 0,
        "distributed_sampler_kwargs": None,
        "training": False,
    }
    return SimpleNamespace(lightning_module=module, **(usual | given))


def answers(loader):
    """The answers of each batch."""
    return [batch["answers"] for batch in loader]


def flat(batches):
    return [answer for batch in batches for answer in batch]


# ------------------------------------------------------------------------------------- loaders


def test_training_is_shuffled_anew_every_epoch_and_drops_what_fills_no_batch():
    torch.manual_seed(0)
    loader = feeding(train=source(21), batch_size=4).train_dataloader()
    one, other = answers(loader), answers(loader)
    assert [len(batch) for batch in one] == [4] * 5
    assert len(set(flat(one))) == 20
    assert flat(one) != sorted(flat(one), key=lambda answer: int(answer.split()[1]))
    assert flat(one) != flat(other)


def test_a_source_smaller_than_a_batch_is_still_trained_on():
    loader = feeding(train=source(3), batch_size=4).train_dataloader()
    assert [sorted(batch) for batch in answers(loader)] == [["sample 0", "sample 1", "sample 2"]]


@pytest.mark.parametrize("measured", ["val", "test", "predict"])
def test_measuring_keeps_order_and_every_sample(measured):
    module = feeding(val=source(7, "val"), test=source(7, "test"), batch_size=4)
    batches = answers(LOADERS[measured](module))
    name = "val" if measured == "val" else "test"
    assert [len(batch) for batch in batches] == [4, 3]
    assert flat(batches) == [f"{name} {i}" for i in range(7)]


def test_only_measuring_prepares_prompts_without_the_last_answer():
    module = feeding(train=source(2), val=source(2), batch_size=2)
    (trained,), (measured,) = module.train_dataloader(), module.val_dataloader()
    assert trained["prompts"] == {}
    assert trained["inputs"]["answers"].tolist() == [1, 1]
    assert measured["inputs"]["answers"].tolist() == [1, 1]
    assert measured["prompts"]["answers"].tolist() == [0, 0]


def test_measuring_may_take_larger_batches_than_training():
    module = feeding(train=source(6), val=source(6), batch_size=2, val_batch_size=6)
    assert [len(batch) for batch in answers(module.train_dataloader())] == [2, 2, 2]
    assert [len(batch) for batch in answers(module.val_dataloader())] == [6]
    assert feeding(batch_size=5).val_batch_size == 5


def test_digits_come_through_a_worker_process():
    module = feeding(val=DigitQuestions("val", 4), batch_size=4, num_workers=1)
    (batch,) = module.val_dataloader()
    assert batch["families"] == ["colour", "place", "comparison", "count"]


def test_without_a_number_of_workers_there_is_one_a_core():
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    assert VqaDataModule().num_workers == min(cores, MOST_WORKERS) >= 1


# -------------------------------------------------------------------------------------- stages


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_stage_that_advanced_is_seen_by_the_next_loader(num_workers):
    staged = StagedDataset([source(2, "easy"), source(4, "hard")])
    module = feeding(train=staged, batch_size=2, num_workers=num_workers)
    assert sorted(flat(answers(module.train_dataloader()))) == ["easy 0", "easy 1"]
    staged.stage = 1
    assert sorted(flat(answers(module.train_dataloader()))) == [f"hard {i}" for i in range(4)]


def test_workers_stay_from_epoch_to_epoch_unless_stages_may_advance():
    plain = feeding(train=source(4), num_workers=1).train_dataloader()
    staged = feeding(train=StagedDataset([source(4)]), num_workers=1).train_dataloader()
    assert plain.persistent_workers
    assert not staged.persistent_workers


# ----------------------------------------------------------------------------------- processor


def test_the_models_own_processor_encodes_unless_one_is_given():
    module = VqaDataModule(val=source(1), num_workers=0)
    module.trainer = attached(SimpleNamespace(processor=encode))
    assert module.processor is encode
    (batch,) = module.val_dataloader()
    assert batch["inputs"]["answers"].tolist() == [1]
    other = feeding()
    other.trainer = attached(SimpleNamespace(processor=None))
    assert other.processor is encode


@pytest.mark.parametrize(
    "trainer", [None, attached(SimpleNamespace())], ids=["none", "no hint"]
)
def test_without_any_processor_both_ways_out_are_named(trainer):
    module = VqaDataModule(train=source(2), num_workers=0)
    module.trainer = trainer
    with pytest.raises(
        MisconfigurationException, match=r"VqaDataModule\(processor=...\) or give the module"
    ):
        module.train_dataloader()


# ----------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("wanted", LOADERS)
def test_a_source_that_was_not_given_is_named(wanted):
    split = "test" if wanted == "predict" else wanted
    with pytest.raises(MisconfigurationException, match=f"was given no {split} source"):
        LOADERS[wanted](feeding())


@pytest.mark.parametrize(
    "sizes", [{"batch_size": 0}, {"batch_size": -2}, {"val_batch_size": 0}, {"val_batch_size": -1}]
)
def test_a_batch_of_nothing_is_refused(sizes):
    (name, size), *_ = sizes.items()
    with pytest.raises(ValueError, match=f"{name}={size}.* must be >= 1"):
        feeding(**sizes)


def test_a_negative_number_of_workers_is_refused():
    with pytest.raises(ValueError, match="num_workers=-1; expected 0 or more"):
        feeding(num_workers=-1)
