"""What a strategy refuses, and what it does in one process and on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_arrcoc import ArrCocModule, ArrCocQwen3VL, VqaDataModule
from lightning_arrcoc.callbacks import OOMGuard
from lightning_arrcoc.data.digits import DigitQuestions
from lightning_arrcoc.strategies import FrozenDeepSpeedStrategy, FrozenFSDPStrategy
from lightning_arrcoc.strategies.shards import sharded_names
from lightning_arrcoc.vlm.blocks import blocks_of, checkpoint_activations


def fit(module: pl.LightningModule, folder: Path, *data: Any, **options: Any) -> pl.Trainer:
    trainer = pl.Trainer(
        **{
            "accelerator": "cpu", "devices": 1, "strategy": FrozenFSDPStrategy(), "max_steps": 2,
            "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
            "enable_checkpointing": False, "limit_val_batches": 0, "default_root_dir": folder,
            **options,
        }
    )  # fmt: skip
    trainer.fit(module, *data)
    return trainer


@pytest.fixture
def joined() -> Any:
    """A process group of this process alone goes away with its test."""
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def test_another_api_is_refused() -> None:
    with pytest.raises(ValueError, match="api='fsdp3'; choose 'fsdp' or 'fsdp2'"):
        FrozenFSDPStrategy("fsdp3")  # type: ignore[arg-type]


def test_a_module_that_names_no_blocks_is_refused(tmp_path: Path, joined: None) -> None:
    with pytest.raises(MisconfigurationException, match=r"Give it blocks_to_shard\(\)"):
        fit(BoringModel(), tmp_path)


def test_blocks_that_all_train_are_refused(
    backbone_folder: Path, tmp_path: Path, joined: None
) -> None:
    module = ArrCocModule(ArrCocQwen3VL.from_pretrained(str(backbone_folder)), trains="backbone")
    with pytest.raises(MisconfigurationException, match=r"all blocks of ArrCocModule train"):
        fit(module, tmp_path, VqaDataModule(DigitQuestions("train", 4), DigitQuestions("val", 4)))


def test_a_guard_that_would_split_for_itself_is_refused(
    backbone_folder: Path, tmp_path: Path, joined: None
) -> None:
    module = ArrCocModule(ArrCocQwen3VL.from_pretrained(str(backbone_folder)))
    data = VqaDataModule(DigitQuestions("train", 4), batch_size=2, num_workers=0)
    with pytest.raises(MisconfigurationException, match="whose forward waits for other ranks"):
        fit(module, tmp_path, data, callbacks=[OOMGuard("split")])


def test_deepspeed_is_refused_in_words_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MisconfigurationException, match="expected 1 or 2"):
        FrozenDeepSpeedStrategy(stage=3)
    monkeypatch.setattr("lightning_arrcoc.strategies.frozen_deepspeed.find_spec", lambda name: None)
    with pytest.raises(MisconfigurationException, match="pip install deepspeed"):
        FrozenDeepSpeedStrategy()


def test_recomputed_blocks_keep_less_for_the_same_gradient(backbone_folder: Path) -> None:
    kept: list[int] = []
    gradients = []
    for recompute in (False, True):
        backbone = ArrCocQwen3VL.from_pretrained(str(backbone_folder)).backbone
        if recompute:
            checkpoint_activations(backbone)
        size = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal size
            size += tensor.numel() * tensor.element_size()
            return tensor

        embedded = torch.randn(
            1, 32, backbone.config.text_config.hidden_size,
            generator=torch.Generator().manual_seed(0),
        ).requires_grad_(True)  # fmt: skip
        backbone.requires_grad_(False)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            output = backbone.model.language_model(inputs_embeds=embedded)
        output.last_hidden_state.square().sum().backward()
        kept.append(size)
        gradients.append(embedded.grad)
    assert torch.equal(*gradients)
    assert kept[1] < kept[0] / 5


@pytest.mark.gpu
@pytest.mark.parametrize("api", ["fsdp2", "fsdp"])
def test_it_trains_on_a_gpu(api: Any, backbone_folder: Path, tmp_path: Path, joined: None) -> None:
    module = ArrCocModule(ArrCocQwen3VL.from_pretrained(str(backbone_folder)))
    data = VqaDataModule(DigitQuestions("train", 8), batch_size=2, num_workers=0)
    strategy = FrozenFSDPStrategy(api)
    fit(module, tmp_path, data, accelerator="gpu", precision="bf16-mixed", strategy=strategy)
    assert len(sharded_names(module)) >= len(blocks_of(module.model.backbone))
