"""Training steps, schedules and checkpoints, with real few-step runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_arrcoc import ArrCocModule, ArrCocQwen3VL, VqaDataModule
from lightning_arrcoc.architecture import ArchitectureError
from lightning_arrcoc.callbacks import AtomicCheckpoint
from lightning_arrcoc.data.collate import Collator
from lightning_arrcoc.data.digits import DigitQuestions
from lightning_arrcoc.data.sample import Sample, Turn
from lightning_arrcoc.module import rate_factor
from lightning_arrcoc.objectives import HardChoice, SoftGates
from lightning_arrcoc.objectives.reading import count, read_whole
from lightning_arrcoc.relevance.realizer import build_realizer
from lightning_arrcoc.relevance.textures import TextureGenerator
from lightning_arrcoc.vlm.flops import language_flops, training_flops, vision_flops


@pytest.fixture
def module(backbone_folder: Path) -> ArrCocModule:
    torch.manual_seed(0)
    return ArrCocModule(ArrCocQwen3VL.from_pretrained(str(backbone_folder), budget=0.25))


def questions(split: str, length: int) -> DigitQuestions:
    return DigitQuestions(split, length, canvas_px=(128, 128), digits=3)


@pytest.fixture
def data() -> VqaDataModule:
    return VqaDataModule(
        questions("train", 12), questions("val", 4), questions("test", 4),
        batch_size=4, num_workers=0,
    )  # fmt: skip


def trainer(folder: Path, **options: Any) -> pl.Trainer:
    settings = {
        "max_steps": 3,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
        "log_every_n_steps": 1,
    }
    return pl.Trainer(**(settings | options))


class StopAt(pl.Callback):
    """Ends a run early, so that its schedule stays that of the longer one."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.should_stop or trainer.global_step >= self.step


def weights(part: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in part.state_dict().items()}


def changed(part: torch.nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {n for n, value in part.state_dict().items() if not torch.equal(value, before[n])}


class Counted(pl.Callback):
    """What a module tells of each batch it was trained on, beside what the batch holds."""

    def __init__(self) -> None:
        self.found: list[tuple[dict[str, int], dict[str, int]]] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        inputs = batch["inputs"]
        image = pl_module.model.backbone.config.image_token_id
        visual = int((inputs["input_ids"] == image).sum())
        held = {"visual": visual, "text": int(inputs["attention_mask"].sum()) - visual}
        told = {name: int(value) for name, value in pl_module.batch_counts(batch).items()}
        self.found.append((told, held))


@pytest.mark.parametrize(
    ("objective", "kept"), [(None, 1.0), (HardChoice(budgets=(0.25, 0.25)), 0.25)]
)
@pytest.mark.parametrize("pack", [False, True])
def test_visual_tokens_kept_and_saved_are_all_there_are(
    objective: Any, kept: float, pack: bool, backbone_folder: Path, tmp_path: Path
) -> None:
    """The one default answers from all of them, the other from its budget, asked for each turn."""
    module = ArrCocModule(ArrCocQwen3VL.from_pretrained(str(backbone_folder)), objective=objective)
    train = questions("train", 12)
    data = VqaDataModule(train, None, None, batch_size=4, num_workers=0, pack_turns=pack)
    counted = Counted()
    trainer(tmp_path, callbacks=[counted], limit_val_batches=0).fit(module, data)
    assert len(counted.found) == 3
    for told, held in counted.found:
        times = len(train[0].turns) if pack and objective else 1
        assert told["visual_tokens"] + told["visual_tokens_saved"] == times * held["visual"]
        assert told["visual_tokens"] == kept * times * held["visual"]
        assert told["text_tokens"] == held["text"]
        assert told["samples"] == 4
        assert told["flops"] > 0


def test_a_batch_that_came_in_parts_counts_as_one_that_did_not(module: ArrCocModule) -> None:
    """As `OOMGuard` cuts it; a part is not the whole."""
    samples = [questions("train", 4)[number] for number in range(4)]
    assert module.processor is not None
    batch = Collator(module.processor, for_measuring=False)(samples)
    parts = [read_whole(module.model, part) for part, _ in module.split_batch(batch, 1)]
    whole = count(module.model, batch, [read_whole(module.model, batch)], frozen=True)
    cut = count(module.model, batch, parts, frozen=True)
    assert len(parts) == 4
    for name in ("samples", "text_tokens", "visual_tokens", "visual_tokens_saved"):
        assert int(cut[name]) == int(whole[name])
    assert int(whole["visual_tokens"]) == 4 * 16


def test_arithmetic_of_a_step_is_that_of_its_parts(module: ArrCocModule) -> None:
    config = module.model.backbone.config
    tower = vision_flops(config.vision_config, 64)
    language = language_flops(config.text_config, 30, 30)
    frozen = training_flops(config, [64, 64], 3, 30, frozen=True)
    assert frozen == 2 * tower.forward + 3 * (language.forward + language.backward)
    trained = training_flops(config, [64, 64], 3, 30, frozen=False)
    assert trained == 3 * (2 * tower.forward + 3 * language.forward)


def test_training_arr_coc_leaves_the_backbone_alone(
    module: ArrCocModule, data: VqaDataModule, tmp_path: Path
) -> None:
    backbone, arr_coc = weights(module.model.backbone), weights(module.model.arr_coc)
    run = trainer(tmp_path)
    run.fit(module, data)
    assert changed(module.model.backbone, backbone) == set()
    assert "knowing.info_scorer.residual.2.weight" in changed(module.model.arr_coc, arr_coc)
    logged = run.callback_metrics
    for key in ("train/loss", "train/accuracy", "train/covered", "train/tension_exploit"):
        assert logged[key].isfinite()
    assert float(logged["val/kept"]) == 0.25
    assert 0 <= float(logged["val/exact_match"]) <= 1


def test_training_the_backbone_leaves_arr_coc_alone(
    backbone_folder: Path, data: VqaDataModule, tmp_path: Path
) -> None:
    module = ArrCocModule(ArrCocQwen3VL.from_pretrained(str(backbone_folder)), trains="backbone")
    backbone, arr_coc = weights(module.model.backbone), weights(module.model.arr_coc)
    run = trainer(tmp_path)
    run.fit(module, data)
    assert changed(module.model.arr_coc, arr_coc) == set()
    assert "model.visual.patch_embed.proj.weight" in changed(module.model.backbone, backbone)
    assert float(run.callback_metrics["val/kept"]) == 1.0


def test_the_backbone_learns_from_packed_turns_as_from_single_ones(
    backbone_folder: Path, tmp_path: Path
) -> None:
    """One question a canvas: packed or not, the same loss and the same first step."""

    def run(pack: bool) -> tuple[dict[str, torch.Tensor], float]:
        torch.manual_seed(0)
        model = ArrCocQwen3VL.from_pretrained(str(backbone_folder))
        module = ArrCocModule(model, trains="backbone")
        data = VqaDataModule(questions("train", 4), batch_size=4, num_workers=0, pack_turns=pack)
        runner = trainer(tmp_path, max_steps=1, limit_val_batches=0)
        runner.fit(module, data)
        return weights(model.backbone), float(runner.callback_metrics["train/loss"])

    (packed, loss), (single, expected) = run(True), run(False)
    assert loss == pytest.approx(expected, abs=1e-5)
    for name, value in packed.items():
        torch.testing.assert_close(value, single[name], atol=1e-4, rtol=1e-3)


def test_a_batch_without_images_trains_nothing_and_stops_nothing(
    module: ArrCocModule, tmp_path: Path
) -> None:
    """Other processes of a run wait for this one's gradients."""
    words = [Sample((), (Turn("Is it?", "yes"),))] * 4
    data = VqaDataModule(words, batch_size=4, num_workers=0)
    arr_coc = weights(module.model.arr_coc)
    trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(module, data)
    assert all(p.grad is not None for p in module.model.arr_coc.parameters())
    drift = max(
        float((value - arr_coc[name]).abs().max())
        for name, value in module.model.arr_coc.state_dict().items()
    )
    assert drift < 1e-3  # weight decay alone


def test_a_run_without_an_end_is_refused(
    module: ArrCocModule, data: VqaDataModule, tmp_path: Path
) -> None:
    with pytest.raises(MisconfigurationException, match=r"max_steps=\.\.\."):
        trainer(tmp_path, max_steps=-1, max_epochs=-1).fit(module, data)


def test_an_objective_can_be_chosen(
    backbone_folder: Path, data: VqaDataModule, tmp_path: Path
) -> None:
    model = ArrCocQwen3VL.from_pretrained(str(backbone_folder), budget=0.25)
    module = ArrCocModule(model, objective=SoftGates())
    run = trainer(tmp_path, limit_val_batches=0)
    run.fit(module, data)
    assert run.callback_metrics["train/gate"].isfinite()


@pytest.mark.parametrize("turns", [1, 3])
def test_packed_turns_train_arr_coc(module: ArrCocModule, tmp_path: Path, turns: int) -> None:
    train = DigitQuestions("train", 4, canvas_px=(128, 128), digits=3, turns=turns)
    data = VqaDataModule(train, batch_size=4, num_workers=0, pack_turns=True)
    before = weights(module.model.arr_coc)
    run = trainer(tmp_path, limit_val_batches=0)
    run.fit(module, data)
    assert "knowing.partic_scorer.cells.4.weight" in changed(module.model.arr_coc, before)
    assert float(run.callback_metrics["train/kept"]) == 4


def test_frozen_parts_stay_in_eval_mode(module: ArrCocModule) -> None:
    module.train()
    assert module.model.arr_coc.training
    assert not module.model.backbone.training
    module.eval()
    assert not module.model.arr_coc.training


def test_a_checkpoint_holds_what_was_trained_and_whose_it_is(
    module: ArrCocModule, data: VqaDataModule, tmp_path: Path
) -> None:
    run = trainer(tmp_path)
    run.fit(module, data)
    run.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert all(name.startswith("arr_coc.") for name in saved["state_dict"])
    assert saved["state_dict"].keys() == {
        f"arr_coc.{name}" for name in module.model.arr_coc.state_dict()
    }
    assert saved["backbone"]["model_type"] == "qwen3_vl"
    assert len(saved["backbone"]["weights_sha256"]) == 64


@pytest.mark.filterwarnings("ignore:You defined a .validation_step:UserWarning")
def test_a_resumed_run_goes_on_where_it_was(backbone_folder: Path, tmp_path: Path) -> None:
    """Two steps and two more end as four at once: weights, moments and learning rate."""

    def run(folder: Path, stop: int, resume: Path | None = None) -> tuple[ArrCocModule, pl.Trainer]:
        torch.manual_seed(0)
        module = ArrCocModule(ArrCocQwen3VL.from_pretrained(str(backbone_folder), budget=0.25))
        ordered = [questions("train", 4)[i] for i in range(4)]  # a step an epoch
        loader = torch.utils.data.DataLoader(
            ordered, batch_size=4, collate_fn=Collator(module.processor, for_measuring=False)
        )
        runner = trainer(folder, max_steps=4, limit_val_batches=0, callbacks=[StopAt(stop)])
        runner.fit(module, loader, ckpt_path=resume, weights_only=True)
        return module, runner

    whole, _ = run(tmp_path, stop=4)
    _, first = run(tmp_path, stop=2)
    first.save_checkpoint(tmp_path / "a.ckpt")
    resumed, runner = run(tmp_path, stop=4, resume=tmp_path / "a.ckpt")
    assert runner.global_step == 4
    assert first.global_step == 2
    assert runner.optimizers[0].param_groups[0]["lr"] == 0
    for optimizer_state in runner.optimizers[0].state.values():
        assert float(optimizer_state["step"]) == 4
    expected = weights(whole.model.arr_coc)
    for name, value in resumed.model.arr_coc.state_dict().items():
        torch.testing.assert_close(value, expected[name], msg=lambda m, name=name: f"{name}: {m}")


def saved_run(module: ArrCocModule, data: VqaDataModule, folder: Path) -> Path:
    run = trainer(folder, max_steps=1, limit_val_batches=0)
    run.fit(module, data)
    run.save_checkpoint(folder / "a.ckpt")
    return folder / "a.ckpt"


def test_a_checkpoint_of_another_backbone_is_refused(
    module: ArrCocModule, data: VqaDataModule, backbone_folder: Path, tmp_path: Path
) -> None:
    checkpoint = saved_run(module, data, tmp_path)
    other = ArrCocModule(ArrCocQwen3VL.from_pretrained(str(backbone_folder), random_weights=True))
    with pytest.raises(ValueError, match=r"belongs to the backbone .*weights_sha256"):
        trainer(tmp_path).test(other, data, ckpt_path=checkpoint, weights_only=True)


def test_a_checkpoint_of_another_architecture_is_refused(
    module: ArrCocModule, data: VqaDataModule, tmp_path: Path
) -> None:
    checkpoint = saved_run(module, data, tmp_path)
    scorer = module.model.arr_coc.knowing.info_scorer.residual
    scorer[0], scorer[2] = torch.nn.Linear(13, 99), torch.nn.Linear(99, 1)
    before = weights(module.model.arr_coc)
    with pytest.raises(ValueError, match=r"\(256, 13\) in the checkpoint, \(99, 13\) here"):
        trainer(tmp_path).test(module, data, ckpt_path=checkpoint, weights_only=True)
    assert changed(module.model.arr_coc, before) == set()


def with_channels(folder: Path, channels: Any, **options: Any) -> ArrCocModule:
    torch.manual_seed(0)
    arr_coc = partial(build_realizer, texture=TextureGenerator(channels))
    return ArrCocModule(ArrCocQwen3VL.from_pretrained(str(folder), arr_coc=arr_coc, **options))


def stamped_run(module: ArrCocModule, data: VqaDataModule, folder: Path) -> Path:
    saver = AtomicCheckpoint(folder, "a", every_n_train_steps=1)
    trainer(folder, max_steps=1, limit_val_batches=0, callbacks=[saver]).fit(module, data)
    return folder / "a.ckpt"


@pytest.mark.parametrize("how", ["fit", "test", "start_from"])
def test_a_checkpoint_of_other_channels_is_refused_by_their_names(
    how: str, data: VqaDataModule, backbone_folder: Path, tmp_path: Path
) -> None:
    """As many of them, so no shape tells."""
    saved = with_channels(backbone_folder, ["red", "green", "edge_x"])
    checkpoint = stamped_run(saved, data, tmp_path)
    other = with_channels(backbone_folder, ["red", "blue", "edge_x"])
    before = weights(other.model.arr_coc)
    saver = AtomicCheckpoint(tmp_path / "b", every_n_train_steps=1)
    loads: dict[str, Callable[[], Any]] = {
        "start_from": lambda: other.start_from(torch.load(checkpoint, weights_only=True)),
        "test": lambda: trainer(tmp_path).test(other, data, ckpt_path=checkpoint),
        "fit": lambda: trainer(tmp_path, callbacks=[saver]).fit(other, data, ckpt_path=checkpoint),
    }
    with pytest.raises(ArchitectureError, match="nothing was loaded") as caught:
        loads[how]()
    for row in (
        "texture.channels.green  1           absent\n",
        "texture.channels.blue   absent      1\n",
    ):
        assert row in str(caught.value)
    assert changed(other.model.arr_coc, before) == set()


@pytest.mark.filterwarnings("ignore:The dirpath has changed from")
def test_a_checkpoint_serves_every_budget(
    data: VqaDataModule, backbone_folder: Path, tmp_path: Path
) -> None:
    checkpoint = stamped_run(with_channels(backbone_folder, "core", budget=0.25), data, tmp_path)
    other = with_channels(backbone_folder, "core", budget=9)
    callbacks = [AtomicCheckpoint(tmp_path / "b", "a", every_n_train_steps=1)]
    run = trainer(tmp_path, max_steps=2, limit_val_batches=0, callbacks=callbacks)
    run.fit(other, data, ckpt_path=checkpoint)
    assert run.global_step == 2
    stamps = torch.load(tmp_path / "b" / "a.ckpt", weights_only=True)["lightning_arrcoc"]
    assert stamps["architecture"]["own"]["may_differ"] == {
        "num_positions": 9, "coarse": True, "temperature": 0.25, "query_blind": False
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore:The dirpath has changed from")
def test_what_fits_of_other_channels_is_loaded_when_asked(
    data: VqaDataModule, backbone_folder: Path, tmp_path: Path
) -> None:
    saved = with_channels(backbone_folder, "core")
    checkpoint = stamped_run(saved, data, tmp_path)
    other = with_channels(backbone_folder, ["red", "green", "edge_x"])
    before = weights(other.model.arr_coc)
    callbacks = [AtomicCheckpoint(tmp_path / "b", partial="report", every_n_train_steps=1)]
    run = trainer(tmp_path, max_steps=1, limit_val_batches=0, callbacks=callbacks)
    seen: list[Any] = []
    run.callbacks.append(pl.callbacks.LambdaCallback(  # type: ignore[attr-defined]
        on_train_start=lambda *_: seen.append(weights(other.model.arr_coc))))  # fmt: skip
    run.fit(other, data, ckpt_path=checkpoint)
    trained = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert torch.equal(seen[0]["null_query"], trained["arr_coc.null_query"])
    first = "knowing.info_scorer.residual.0.weight"
    assert torch.equal(seen[0][first], before[first]), "of other channels"


def test_textures_of_ones_own_need_no_table_of_channels(
    module: ArrCocModule, backbone_folder: Path
) -> None:
    module.model.arr_coc.texture = torch.nn.Identity()
    assert module.architecture()["texture"] == {"out_channels": None, "channels": []}


def test_a_backbone_in_training_does_not_care_about_channels(backbone_folder: Path) -> None:
    model = ArrCocQwen3VL.from_pretrained(str(backbone_folder))
    assert ArrCocModule(model, trains="backbone").architecture() == {"trains": "backbone"}


def test_two_tests_in_a_row_do_not_add_up(
    module: ArrCocModule, data: VqaDataModule, tmp_path: Path
) -> None:
    run = trainer(tmp_path)
    for _ in range(2):
        run.test(module, data, verbose=False)
        assert float(module.contest.right["full"].weight) == 4  # questions, counted once


def test_the_rate_rises_holds_and_falls_to_zero() -> None:
    factors = [rate_factor(step, steps=100, warmup=0.1, decay=0.5) for step in range(101)]
    assert factors[0] == pytest.approx(1 / 11)
    assert factors[:10] == sorted(factors[:10])
    assert factors[10:51] == [1.0] * 41
    assert factors[75] == pytest.approx(0.5)
    assert factors[100] == 0
    assert factors[50:] == sorted(factors[50:], reverse=True)


def test_an_unknown_part_to_train_is_refused(backbone_folder: Path) -> None:
    model = ArrCocQwen3VL.from_pretrained(str(backbone_folder))
    with pytest.raises(ValueError, match="'arr_coc' or 'backbone'"):
        ArrCocModule(model, trains="everything")  # type: ignore[arg-type]


# ---------------------------------------------------------------------------- metrics of answers


def asked_of_two(answer: str, *accepted: str) -> Sample:
    turn = Turn("Which digit is red?", answer, accepted)
    return Sample(questions("val", 1)[0].images, (turn,))


def test_validation_measures_what_is_asked_for(
    backbone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_arrcoc.module.decode_answers", lambda *_: ["Coca Col", "red"])
    model = ArrCocQwen3VL.from_pretrained(str(backbone_folder), budget=0.25)
    module = ArrCocModule(model, metrics=["vqa_accuracy", "anls"])
    sources = [asked_of_two("coca cola"), asked_of_two("blue", *["red"] * 2, *["blue"] * 8)]
    data = VqaDataModule(val=sources, batch_size=2, num_workers=0)
    (found,) = trainer(tmp_path).validate(module, data, verbose=False)
    assert found["val/exact_match"] == pytest.approx(1 / 2)
    assert found["val/vqa_accuracy"] == pytest.approx(0.6 / 2)
    assert found["val/anls"] == pytest.approx((8 / 9 + 1) / 2)


def test_the_truth_beside_a_prediction_is_the_accepted_answer_that_was_given(
    backbone_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ArrCocModule(ArrCocQwen3VL.from_pretrained(str(backbone_folder), budget=0.25))
    monkeypatch.setattr("lightning_arrcoc.module.decode_answers", lambda *_: ["Red", "green"])
    assert module.processor is not None
    voted = asked_of_two("blue", "blue", "red")
    batch = Collator(module.processor, for_measuring=True)([voted, voted])
    assert [found["truth"] for found in module.predict_step(batch, 0)] == ["red", "blue"]


@pytest.mark.parametrize("metrics", [["bleu"], "anls"])
def test_a_metric_that_is_not_there_is_refused(backbone_folder: Path, metrics: list[str]) -> None:
    model = ArrCocQwen3VL.from_pretrained(str(backbone_folder))
    with pytest.raises(ValueError, match="expected a list of some of exact_match, vqa_accuracy"):
        ArrCocModule(model, metrics=metrics)
