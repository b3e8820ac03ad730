"""Training is shuffled, measuring keeps its order, and what is missing is named."""

import os
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from PIL import Image

from lightning_arrcoc.data.datamodule import VqaDataModule
from lightning_arrcoc.data.digits import DigitQuestions
from lightning_arrcoc.data.sample import Sample, Turn
from lightning_arrcoc.data.staged import StagedDataset
from lightning_arrcoc.data.workers import MOST_WORKERS, TINY

PICTURE = Image.new("RGB", (32, 32))
LOADERS = {
    "train": VqaDataModule.train_dataloader,
    "val": VqaDataModule.val_dataloader,
    "test": VqaDataModule.test_dataloader,
    "predict": VqaDataModule.predict_dataloader,
}


def encode(conversations, **_):
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


def cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def test_without_a_number_of_workers_there_is_one_a_core():
    loader = feeding(train=source(TINY + 1), num_workers=None).train_dataloader()
    assert loader.num_workers == min(cores(), MOST_WORKERS) >= 1


@pytest.mark.filterwarnings("ignore:This DataLoader will create \\d worker")  # none is started
def test_training_processes_of_a_machine_share_its_cores(monkeypatch):
    monkeypatch.setattr("lightning_arrcoc.data.workers.available_cores", lambda: 12)
    module = feeding(train=source(100), num_workers=None)
    assert module.train_dataloader().num_workers == MOST_WORKERS
    for processes, workers in ((2, 6), (5, 2), (99, 1)):
        module.trainer = attached(None, num_devices=processes)
        assert module.train_dataloader().num_workers == workers


def test_a_tiny_source_needs_no_workers_unless_they_are_asked_for():
    assert feeding(val=source(TINY), num_workers=None).val_dataloader().num_workers == 0
    assert feeding(val=source(TINY), num_workers=1).val_dataloader().num_workers == 1


def test_each_worker_has_as_many_batches_ready_as_it_is_told():
    assert feeding(train=source(4), num_workers=1).train_dataloader().prefetch_factor == 2
    more = feeding(train=source(4), num_workers=1, prefetch_factor=5).train_dataloader()
    assert more.prefetch_factor == 5
    assert feeding(train=source(4), prefetch_factor=5).train_dataloader().prefetch_factor is None


@pytest.mark.parametrize(
    ("accelerator", "asked", "pinned"),
    [
        (CUDAAccelerator, None, True),
        (CUDAAccelerator, True, True),
        (CUDAAccelerator, False, False),
        (CPUAccelerator, None, False),
        (CPUAccelerator, True, False),
    ],
)
def test_memory_is_pinned_for_cuda_alone(accelerator, asked, pinned):
    module = feeding(train=source(4), pin_memory=asked)
    assert not module.train_dataloader().pin_memory, "nobody trains yet"
    module.trainer = attached(None, accelerator=accelerator())
    assert module.train_dataloader().pin_memory == pinned


def test_memory_is_not_pinned_where_torch_cannot_do_so_reliably():
    """Where loaders are renewed and their workers stay."""
    cuda = CUDAAccelerator()
    module = feeding(val=source(4), train=StagedDataset([source(4)]), num_workers=1)
    module.trainer = attached(None, accelerator=cuda, reload_dataloaders_every_n_epochs=1)
    assert not module.val_dataloader().pin_memory
    assert module.train_dataloader().pin_memory, "these workers do not stay"


# -------------------------------------------------------------------------------- made only once


class Whose:
    """Each sample answers with the process that fetched it."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return Sample((), (Turn("?", str(os.getpid())),))


class Observer(pl.LightningModule):
    """Notes which processes its batches come from."""

    processor = staticmethod(encode)

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.trained, self.validated, self.validations = set(), set(), 0

    def training_step(self, batch, batch_idx):
        self.trained |= set(batch["answers"])
        return self.layer(torch.ones(1, 1)).sum()

    def validation_step(self, batch, batch_idx):
        self.validated |= set(batch["answers"])

    def on_validation_end(self):
        self.validations += 1

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("renewed", [0, 1], ids=["kept", "asked for anew"])
def test_workers_are_started_once_for_all_epochs_and_validations(renewed, tmp_path):
    """Also where the Trainer asks for loaders every epoch, as a curriculum makes it."""
    data = VqaDataModule(Whose(), Whose(), batch_size=2, num_workers=2)
    observer = Observer()
    pl.Trainer(
        max_epochs=3, val_check_interval=2, reload_dataloaders_every_n_epochs=renewed,
        num_sanity_val_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    ).fit(observer, data)  # fmt: skip
    assert observer.validations == 1 + 6
    assert len(observer.trained) == len(observer.validated) == 2
    assert not observer.trained & observer.validated
    assert str(os.getpid()) not in observer.trained


def test_stages_that_may_advance_have_new_workers_every_epoch(tmp_path):
    """Negative control: the test above would notice."""
    observer = Observer()
    data = VqaDataModule(StagedDataset([Whose()]), batch_size=2, num_workers=1)
    pl.Trainer(
        max_epochs=3, reload_dataloaders_every_n_epochs=1, limit_val_batches=0, accelerator="cpu",
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    ).fit(observer, data)  # fmt: skip
    assert len(observer.trained) == 3


def test_a_loader_is_made_anew_only_where_something_has_changed():
    module = feeding(train=source(8), val=source(8), test=source(8), batch_size=2)
    for make in LOADERS.values():
        assert make(module) is make(module)
    before = {name: make(module) for name, make in LOADERS.items()}
    assert before["test"] is before["predict"]
    module.test = source(3)
    assert LOADERS["test"](module) is not before["test"]
    assert len(answers(LOADERS["test"](module))) == 2
    assert LOADERS["val"](module) is before["val"]
    module.batch_size = 4
    assert LOADERS["train"](module) is not before["train"]


def test_batches_are_taken_from_what_every_process_has():
    """Five samples are three for each of two processes, which fill no batch of four."""
    module = feeding(train=source(5), batch_size=4)
    module.trainer = attached(None, distributed_sampler_kwargs={"num_replicas": 2, "rank": 1})
    (batch,) = answers(module.train_dataloader())
    assert len(batch) == 3


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


@pytest.mark.parametrize("trainer", [None, attached(SimpleNamespace())], ids=["none", "no hint"])
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


@pytest.mark.parametrize(("name", "value"), [("prefetch_factor", 0), ("seed", -1)])
def test_other_numbers_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}; expected"):
        feeding(**{name: value})
