"""Checkpoints hold what was trained, go where it belongs, and nowhere else."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_arrcoc import ArrCocModule, ArrCocQwen3VL, VqaDataModule
from lightning_arrcoc.data.collate import Collator
from lightning_arrcoc.data.digits import DigitQuestions
from lightning_arrcoc.objectives import AttributionDistillation, HardChoice, Objective, SoftGates
from lightning_arrcoc.vlm.lora import add_lora, base_parameters, lora_parameters

pytest.importorskip("peft")


def make(folder: Path, lora: Any = None, objective: Objective | None = None) -> ArrCocModule:
    torch.manual_seed(0)
    model = ArrCocQwen3VL.from_pretrained(str(folder), budget=0.25, lora=lora)
    return ArrCocModule(model, objective=objective or HardChoice(seed=0), lora_learning_rate=1e-2)


def questions(split: str, length: int) -> DigitQuestions:
    return DigitQuestions(split, length, canvas_px=(128, 128), digits=3)


@pytest.fixture
def data() -> VqaDataModule:
    return VqaDataModule(questions("train", 8), test=questions("test", 2), batch_size=4,
                         num_workers=0)  # fmt: skip


def trainer(folder: Path, **options: Any) -> pl.Trainer:
    settings: dict[str, Any] = {
        "max_steps": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "limit_val_batches": 0,
        "default_root_dir": folder,
        "log_every_n_steps": 1,
    }
    return pl.Trainer(**(settings | options))


def saved(module: ArrCocModule, data: VqaDataModule, folder: Path) -> Path:
    run = trainer(folder)
    run.fit(module, data)
    run.save_checkpoint(folder / "a.ckpt")
    return folder / "a.ckpt"


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


@pytest.mark.parametrize("objective", [HardChoice(seed=0), SoftGates()])
def test_adapters_learn_beside_arr_coc_and_the_base_stays(
    backbone_folder: Path, data: VqaDataModule, tmp_path: Path, objective: Objective
) -> None:
    module = make(backbone_folder, add_lora, objective)
    backbone = module.model.backbone
    parts = (lora_parameters(backbone), dict(module.model.arr_coc.named_parameters()))
    before = [{name: value.clone() for name, value in part.items()} for part in parts]
    base = {name: value.clone() for name, value in base_parameters(backbone).items()}
    run = trainer(tmp_path)
    run.fit(module, data)
    for part, old in zip(parts, before, strict=True):
        assert sum(not torch.equal(value, old[name]) for name, value in part.items()) > 10
    assert all(torch.equal(value, base[n]) for n, value in base_parameters(backbone).items())
    groups = run.optimizers[0].param_groups
    assert [group["initial_lr"] for group in groups] == [3e-3, 3e-3, 1e-2]


@pytest.mark.filterwarnings("ignore:You defined a .validation_step:UserWarning")
def test_an_objective_that_would_not_reach_the_adapters_is_refused(
    backbone_folder: Path, data: VqaDataModule, tmp_path: Path
) -> None:
    module = make(backbone_folder, add_lora, AttributionDistillation())
    message = r"AttributionDistillation sends no gradient .* training/objective=hard"
    with pytest.raises(MisconfigurationException, match=message):
        trainer(tmp_path).fit(module, data)
    trainer(tmp_path).test(module, data, verbose=False)  # measuring needs no gradient


def test_a_backbone_in_training_takes_no_adapters(backbone_folder: Path) -> None:
    model = ArrCocQwen3VL.from_pretrained(str(backbone_folder), lora=add_lora)
    with pytest.raises(ValueError, match="model/lora=none"):
        ArrCocModule(model, trains="backbone")


def test_a_checkpoint_holds_adapters_and_comes_back_whole(
    backbone_folder: Path, data: VqaDataModule, tmp_path: Path
) -> None:
    module = make(backbone_folder, add_lora)
    path = saved(module, data, tmp_path)
    content = read(path)
    adapters = {n for n in content["state_dict"] if n.startswith("backbone.")}
    assert adapters == {f"backbone.{name}" for name in lora_parameters(module.model.backbone)}
    assert content["lora"]["rank"] == 8
    other = make(backbone_folder, add_lora)
    trainer(tmp_path).test(other, data, ckpt_path=path, weights_only=True, verbose=False)
    mine = module.model.state_dict()
    assert all(torch.equal(value, mine[n]) for n, value in other.model.state_dict().items())


def test_without_adapters_a_checkpoint_is_as_it_ever_was(
    backbone_folder: Path, data: VqaDataModule, tmp_path: Path
) -> None:
    content = read(saved(make(backbone_folder), data, tmp_path))
    assert all(name.startswith("arr_coc.") for name in content["state_dict"])
    assert "lora" not in content


@pytest.mark.parametrize(
    ("trained", "composed", "message"),
    [
        (add_lora, None, r"trained with LoRA .* without LoRA.*\(model/lora=default\)"),
        (None, add_lora, r"trained without LoRA, this model is with .* \(model/lora=none\)"),
        (add_lora, partial(add_lora, alpha=4), "alpha 16.*alpha 4"),
        (add_lora, partial(add_lora, rank=4), "rank 8.*rank 4"),
        (add_lora, partial(add_lora, targets=["q_proj"]), "targets"),
    ],
)
def test_adapters_of_another_kind_are_refused(
    backbone_folder: Path, data: VqaDataModule, tmp_path: Path,
    trained: Any, composed: Any, message: str,
) -> None:  # fmt: skip
    path = saved(make(backbone_folder, trained), data, tmp_path)
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path).test(
            make(backbone_folder, composed), data, ckpt_path=path, weights_only=True
        )


class StopAt(pl.Callback):
    """Ends a run early, so that its schedule stays that of the longer one."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.should_stop or trainer.global_step >= self.step


@pytest.mark.filterwarnings("ignore:You defined a .validation_step:UserWarning")
def test_a_resumed_run_ends_with_the_very_weights_and_budgets(
    backbone_folder: Path, tmp_path: Path
) -> None:
    def run(stop: int, resume: Path | None = None) -> tuple[ArrCocModule, pl.Trainer]:
        module = make(backbone_folder, add_lora)
        ordered = [questions("train", 4)[i] for i in range(4)]  # a step an epoch
        loader = torch.utils.data.DataLoader(
            ordered, batch_size=4, collate_fn=Collator(module.processor, for_measuring=False)
        )
        runner = trainer(tmp_path, max_steps=4, callbacks=[StopAt(stop)])
        runner.fit(module, loader, ckpt_path=resume, weights_only=True)
        return module, runner

    whole, _ = run(stop=4)
    _, first = run(stop=2)
    first.save_checkpoint(tmp_path / "a.ckpt")
    assert read(tmp_path / "a.ckpt")["objective"] == {"batches": 2}
    resumed, _ = run(stop=4, resume=tmp_path / "a.ckpt")
    assert resumed.objective.state_dict() == {"batches": 4}
    expected = whole.model.state_dict()
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[name]), name


# ------------------------------------------------------------------ a new run with old weights


def test_a_new_run_begins_with_the_weights_alone(
    backbone_folder: Path, data: VqaDataModule, tmp_path: Path
) -> None:
    first = make(backbone_folder, objective=AttributionDistillation())
    path = saved(first, data, tmp_path)
    second = make(backbone_folder)
    second.start_from(read(path))
    for name, value in first.model.arr_coc.state_dict().items():
        assert torch.equal(second.model.arr_coc.state_dict()[name], value)
    run = trainer(tmp_path, max_steps=1)
    run.fit(second, data)
    assert run.global_step == 1
    assert all(float(s["step"]) == 1 for s in run.optimizers[0].state.values())


def test_adapters_may_be_added_to_what_was_trained_without(
    backbone_folder: Path, data: VqaDataModule, tmp_path: Path
) -> None:
    first = make(backbone_folder)
    path = saved(first, data, tmp_path)
    second = make(backbone_folder, add_lora)
    second.start_from(read(path))
    for name, value in first.model.arr_coc.state_dict().items():
        assert torch.equal(second.model.arr_coc.state_dict()[name], value)
    fresh = {n: v for n, v in lora_parameters(second.model.backbone).items() if "lora_B" in n}
    assert all(not value.any() for value in fresh.values())


def test_what_does_not_fit_does_not_begin_a_run_either(
    backbone_folder: Path, data: VqaDataModule, tmp_path: Path
) -> None:
    path = saved(make(backbone_folder, add_lora), data, tmp_path)
    with pytest.raises(ValueError, match="model/lora=default"):
        make(backbone_folder).start_from(read(path))
    torch.manual_seed(0)
    other = ArrCocModule(ArrCocQwen3VL.from_pretrained(str(backbone_folder), random_weights=True))
    with pytest.raises(ValueError, match=r"belongs to the backbone"):
        other.start_from(read(path))
    content = read(path)
    del content["state_dict"]["arr_coc.null_query"]
    with pytest.raises(ValueError, match="null_query: absent in the checkpoint"):
        make(backbone_folder, add_lora).start_from(content)
